"""The plain ViT, built by timm, and its features.

Any image size works (position embeddings are interpolated, rotary ones computed), and so does any timm model of the
classes VisionTransformer (DINO, DINOv2, MAE, ...) and Eva (DINOv3, EVA-02).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sohes.backbone.precision import half_precision
from sohes.errors import SohesError, first_sentence, is_the_machines

Kind = Literal["tokens", "keys", "values"]
Tap = tuple[Kind, int]  # a kind of features, and the block it comes from

PIXELS_PER_BATCH = 2**21  # of feature extraction: two images of 1024 x 1024, 32 of 256 x 256


class Backbone(nn.Module):
    """A timm ViT seen as patch tokens.

    architecture, arguments: what `timm.create_model` needs to build it again. mean, std: of RGB in [0, 1], three
    numbers each, which its images are normalised with.
    """

    vit: Any  # VisionTransformer | Eva, whose attributes timm does not declare

    def __init__(self, architecture: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> None:
        super().__init__()
        self.architecture, self.arguments = architecture, dict(arguments)
        # no pooling, since timm would put the last norm behind it, where patch tokens do not pass
        fixed: dict[str, Any] = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True}
        try:
            self.vit = timm.create_model(architecture, pretrained=pretrained, **fixed, **arguments)
        except TypeError:  # a convolutional network takes no patch size
            self.vit = None
        except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
            if pretrained or is_the_machines(error):  # of weights that cannot be had the caller knows the remedy
                raise
            raise SohesError(
                f"timm {timm.__version__} cannot build {architecture} with {dict(arguments)} "
                f"({first_sentence(error)}): name another architecture, or install the timm that knows it"
            ) from None
        if not isinstance(self.vit, VisionTransformer | Eva):
            raise SohesError(f"{architecture} is not a plain ViT: name one of timm's vit_* or eva02_* models")
        if getattr(self.vit, "rope", None) is not None and (width := self.embed_dim // self.num_heads) % 4:
            raise SohesError(f"{architecture} turns its heads by their place: 4 must divide their width (got {width})")
        published: dict[str, Any] = self.vit.pretrained_cfg  # type: ignore[assignment]
        self.mean, self.std = tuple(published["mean"]), tuple(published["std"])

    def freeze(self) -> Backbone:
        """From now on its weights do not learn and it stays in eval mode; gradients still pass to its input."""
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Backbone:
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    @property
    def patch_size(self) -> int:
        return self.vit.patch_embed.patch_size[0]

    @property
    def embed_dim(self) -> int:
        return self.vit.embed_dim

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    @property
    def num_heads(self) -> int:
        return self.vit.blocks[0].attn.num_heads

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens, which come before the patches."""
        return self.vit.num_prefix_tokens

    @property
    def norm(self) -> nn.Module:
        """The norm behind the last block."""
        return self.vit.norm

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def normalise(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B, 3, H, W) float32 on the backbone's device, from uint8 (H, W, 3) RGB images of one size."""
        return self.scale(torch.from_numpy(np.stack(images)).to(self.device))

    def scale(self, pixels_BHW3: Tensor) -> Tensor:
        """(B, 3, H, W) float32, normalised for the ViT, from uint8 RGB pixels."""
        mean, std = (255 * torch.tensor(part, device=self.device).view(3, 1, 1) for part in (self.mean, self.std))
        return ((pixels_BHW3.permute(0, 3, 1, 2) - mean) / std).contiguous()

    def embed(self, images_B3HW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input of the first block: (B, prefix + h * w, C) tokens with their positions, and (h, w).

        SohesError if a side is not a multiple of the patch size.
        """
        height, width = images_B3HW.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise SohesError(
                f"an image side must be a multiple of the backbone's patch size {self.patch_size} "
                f"(got {height} x {width}): change the image_size of this stage"
            )
        # timm has no public method between the patch embedding and the blocks
        tokens = self.vit._pos_embed(self.vit.patch_embed(images_B3HW))
        tokens = tokens[0] if isinstance(self.vit, Eva) else self.vit.patch_drop(tokens)
        return self.vit.norm_pre(tokens), (height // self.patch_size, width // self.patch_size)

    def run_blocks(self, tokens_BNC: Tensor, start: int, stop: int, size: tuple[int, int] | None = None) -> Tensor:
        """Tokens after the blocks [start, stop). size: (h, w) of the patches; without it their grid is a square.

        Only rotary positions depend on the size; ValueError if they need one and the patches form no square.
        """
        rotary = self._rotary(tokens_BNC, size) if getattr(self.vit, "rope", None) is not None else None
        mixed = getattr(self.vit, "rope_mixed", False)  # each block has rotations of its own
        for index in range(start, stop):
            block = self.vit.blocks[index]
            if rotary is None:
                tokens_BNC = block(tokens_BNC)
            else:
                tokens_BNC = block(tokens_BNC, rope=rotary[index] if mixed else rotary)
        return tokens_BNC

    def _rotary(self, tokens_BNC: Tensor, size: tuple[int, int] | None) -> Tensor:
        patches = tokens_BNC.shape[1] - self.num_prefix_tokens
        if size is None:
            side = round(patches**0.5)
            size = (side, side)
        if size[0] * size[1] != patches:
            raise ValueError(f"rotary positions need the size of the patches' grid (got {size} for {patches} patches)")
        return self.vit.rope.get_embed(shape=list(size))

    def features(self, images_B3HW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens behind the last norm, prefix tokens included, and (h, w)."""
        tokens, size = self.embed(images_B3HW)
        return self.norm(self.run_blocks(tokens, 0, self.depth, size)), size

    def tokens(self, images_B3HW: Tensor, kind: Kind = "tokens", block: int = -1) -> Tensor:
        """(B, h, w, C) features of the patches; see `taps`."""
        return self.taps(images_B3HW, [(kind, block)])

    def taps(self, images_B3HW: Tensor, wanted: Sequence[Tap]) -> Tensor:
        """(B, h, w, n C) features of the patches, the n wanted side by side, of images normalised as the ViT wants.

        wanted: kinds and blocks. A block is counted from the end; -1 is the last. Its kinds are `tokens` behind the
        block and the last norm, and the `keys` or `values` of its attention, those of all heads side by side.
        SohesError if there is no such block.
        """
        for _, block in wanted:
            if not -self.depth <= block < 0:
                raise SohesError(f"the backbone has {self.depth} blocks: explore.block must be -{self.depth} to -1")
        tokens, size = self.embed(images_B3HW)
        found: dict[Tap, Tensor] = {}
        for index in range(self.depth + max(block for _, block in wanted) + 1):
            before, tokens = tokens, self.run_blocks(tokens, index, index + 1, size)
            for kind, block in wanted:
                if self.depth + block == index:
                    block_input = self.vit.blocks[index], before
                    found[kind, block] = self.norm(tokens) if kind == "tokens" else _projected(*block_input, kind)
        return torch.cat([found[tap][:, self.num_prefix_tokens :] for tap in wanted], -1).unflatten(1, size)


def _projected(block: Any, tokens_BNC: Tensor, kind: Kind) -> Tensor:
    """The keys or values that a block's attention makes of its input."""
    attention, normed = block.attn, block.norm1(tokens_BNC)
    if attention.qkv is None:  # Eva may have three projections in place of one
        return (attention.k_proj if kind == "keys" else attention.v_proj)(normed)
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # Eva's keys may have none, stored as zeros
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return nn.functional.linear(normed, attention.qkv.weight, bias).chunk(3, -1)[1 if kind == "keys" else 2]


def extract_features(
    backbone: Backbone, images: Sequence[np.ndarray], *, amp: bool = False, wanted: Sequence[Tap] = (("tokens", -1),)
) -> list[np.ndarray]:
    """(h, w, C) float32 features of each uint8 (H, W, 3) RGB image, as `Backbone.taps`; all images are of one size.

    amp: matrix products in bf16, where the backbone's device has them.
    """
    if not len(images):
        return []
    per_batch = max(1, PIXELS_PER_BATCH // (images[0].shape[0] * images[0].shape[1]))
    backbone.eval()
    features: list[np.ndarray] = []
    with torch.inference_mode(), half_precision(backbone.device, amp):
        for first in range(0, len(images), per_batch):
            tokens_BhwC = backbone.taps(backbone.normalise(images[first : first + per_batch]), wanted)
            features.extend(tokens_BhwC.float().cpu().numpy())
    return features
