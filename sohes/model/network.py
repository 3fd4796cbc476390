"""The segmenter of phases 2 and 3: ViT + ViT-Adapter + Mask2Former + ancestor head (paper 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sohes.errors import SohesError
from sohes.model.adapter import ViTAdapter
from sohes.model.mask_decoder import MaskDecoder
from sohes.model.pixel_decoder import PixelDecoder
from sohes.params import ModelParams
from sohes.params.model import STRIDE
from sohes.structures import ModelOutput

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone


def check_sides(images_B3HW: Tensor) -> None:
    """SohesError if a side is not a multiple of the coarsest map's stride."""
    H, W = images_B3HW.shape[-2:]
    if H % STRIDE or W % STRIDE:
        raise SohesError(f"model.image_size must be a multiple of {STRIDE} (got {H} x {W} pixels)")


class Segmenter(nn.Module):
    """Images to class, mask and ancestor logits of `num_queries` queries.

    The pixel decoder's feed-forward nets have half of `feedforward_dim`, as in Mask2Former (1,024 to 2,048).
    """

    def __init__(self, backbone: Backbone, params: ModelParams) -> None:
        super().__init__()
        self.params = params
        dim, heads = params.hidden_dim, params.num_heads
        self.adapter = ViTAdapter(backbone, params.adapter, recompute_blocks=params.recompute_blocks)
        self.pixel_decoder = PixelDecoder(
            backbone.embed_dim,
            dim,
            num_heads=heads,
            feedforward_dim=params.feedforward_dim // 2,
            layers=params.pixel_decoder_layers,
        )
        self.mask_decoder = MaskDecoder(
            dim,
            num_queries=params.num_queries,
            queries=params.queries,
            num_heads=heads,
            feedforward_dim=params.feedforward_dim,
            layers=params.decoder_layers,
        )
        self.to(memory_format=torch.channels_last)

    @property
    def backbone(self) -> Backbone:
        return self.adapter.backbone

    def forward(self, images_B3HW: Tensor) -> ModelOutput:
        """images_B3HW: normalised for the backbone. SohesError if a side is not a multiple of 32."""
        check_sides(images_B3HW)
        images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        return self.mask_decoder(self.pixel_decoder(self.adapter(images_B3HW)))
