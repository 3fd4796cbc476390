"""The segmenter of phases 2 and 3: ViT + ViT-Adapter + Mask2Former + ancestor head (paper 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sohes.errors import SohesError
from sohes.model.adapter import ViTAdapter
from sohes.model.mask_decoder import MaskDecoder
from sohes.model.pixel_decoder import PixelDecoder
from sohes.params import ModelParams
from sohes.params.model import STRIDE
from sohes.structures import Logits, ModelOutput

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone


def check_sides(images_B3HW: Tensor) -> None:
    """SohesError if a side is not a multiple of the coarsest map's stride."""
    H, W = images_B3HW.shape[-2:]
    if H % STRIDE or W % STRIDE:
        raise SohesError(f"model.image_size must be a multiple of {STRIDE} (got {H} x {W} pixels)")


class AdaptedNetwork(nn.Module):
    """A ViT with its adapter and a head, and how it predicts."""

    adapter: ViTAdapter
    params: ModelParams

    @property
    def backbone(self) -> Backbone:
        return self.adapter.backbone

    @property
    def on_gpu(self) -> bool:
        return next(self.parameters()).is_cuda

    @torch.inference_mode()
    def predict(self, squares: Sequence[np.ndarray]) -> list[Logits]:
        """The logits of each uint8 (image_size, image_size, 3) RGB image. Leaves the network in evaluation mode."""
        output = self.eval()(self.backbone.normalise(squares))
        parts = (output.class_logits_BQ2, output.mask_logits_BQhw, output.ancestor_logits_BQQ)
        arrays = [[None] * len(squares) if part is None else part.float().cpu().numpy() for part in parts]
        return [Logits(*of_image) for of_image in zip(*arrays, strict=True)]


class Segmenter(AdaptedNetwork):
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

    def forward(self, images_B3HW: Tensor) -> ModelOutput:
        """images_B3HW: normalised for the backbone. SohesError if a side is not a multiple of 32."""
        check_sides(images_B3HW)
        images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        return self.mask_decoder(self.pixel_decoder(self.adapter(images_B3HW)))
