"""ViT-Adapter (Chen et al., 2023): maps at strides 4, 8, 16 and 32 from a plain ViT of any patch size.

A small convolution net reads the image beside the ViT. Injectors carry its cells (strides 8, 16, 32) into the ViT's
tokens, extractors carry the tokens back, both by deformable attention, before and after each part of the blocks.
Ours: group instead of batch normalisation, so that an image's result does not depend on its batch (accumulation, EMA
teacher, single images); prefix tokens stay in the ViT; its own last norm is applied to the tokens that go out.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sohes.errors import SohesError
from sohes.model.deformable import DeformableAttention, cell_places
from sohes.model.norm import group_norm
from sohes.model.sampling import Shapes
from sohes.params import AdapterParams

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone


def _conv(in_dim: int, dim: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_dim, dim, 3, stride=stride, padding=1, bias=False), group_norm(dim), nn.ReLU(inplace=True)
    )


class SpatialPrior(nn.Module):
    """Convolutions that halve the image five times; each of the last four maps is projected to `dim` channels."""

    def __init__(self, dim: int, stem_dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv(3, stem_dim, 2), _conv(stem_dim, stem_dim, 1), _conv(stem_dim, stem_dim, 1), nn.MaxPool2d(3, 2, 1)
        )
        widths = [stem_dim, 2 * stem_dim, 4 * stem_dim, 4 * stem_dim]
        self.halve = nn.ModuleList(_conv(a, b, 2) for a, b in itertools.pairwise(widths))
        self.project = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """Maps (B, dim, h, w) at strides 4, 8, 16, 32."""
        maps = [self.stem(images_B3HW)]
        for halve in self.halve:
            maps.append(halve(maps[-1]))
        return [project(m) for project, m in zip(self.project, maps, strict=True)]


class Injector(nn.Module):
    """Tokens attend to the cells. At first gamma is zero and nothing flows, so a pretrained ViT starts unchanged."""

    def __init__(self, dim: int, params: AdapterParams) -> None:
        super().__init__()
        self.token_norm, self.cell_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = DeformableAttention(
            dim, num_heads=params.num_heads, levels=3, points=params.points, value_dim=dim // 2
        )
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens_BNC: Tensor, grid: Shapes, cells_BSC: Tensor, shapes: Shapes) -> Tensor:
        places = cell_places(grid, tokens_BNC.device)
        seen = self.attention(self.token_norm(tokens_BNC), places, self.cell_norm(cells_BSC), shapes)
        return tokens_BNC + self.gamma * seen


class Extractor(nn.Module):
    """Cells attend to the tokens; a depthwise convolution mixes each level in the feed-forward net."""

    def __init__(self, dim: int, params: AdapterParams) -> None:
        super().__init__()
        self.token_norm, self.cell_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = DeformableAttention(
            dim, num_heads=params.num_heads, levels=1, points=params.points, value_dim=dim // 2
        )
        self.feedforward_norm = nn.LayerNorm(dim)
        self.shrink, self.grow = nn.Linear(dim, dim // 4), nn.Linear(dim // 4, dim)
        self.depthwise = nn.Conv2d(dim // 4, dim // 4, 3, padding=1, groups=dim // 4)

    def forward(self, cells_BSC: Tensor, shapes: Shapes, tokens_BNC: Tensor, grid: Shapes) -> Tensor:
        places = cell_places(shapes, cells_BSC.device)
        cells_BSC = cells_BSC + self.attention(self.cell_norm(cells_BSC), places, self.token_norm(tokens_BNC), grid)
        hidden = _to_maps(self.shrink(self.feedforward_norm(cells_BSC)), shapes)
        return cells_BSC + self.grow(F.gelu(_to_cells([self.depthwise(m) for m in hidden])))


class ViTAdapter(nn.Module):
    """recompute_blocks: recompute the ViT's blocks in the backward pass instead of keeping their activations."""

    def __init__(self, backbone: Backbone, params: AdapterParams, *, recompute_blocks: bool = False) -> None:
        super().__init__()
        dim, parts = backbone.embed_dim, params.interactions
        if parts > backbone.depth:
            raise SohesError(
                f"model.adapter.interactions must not exceed the backbone's {backbone.depth} blocks (got {parts})"
            )
        self.backbone = backbone
        self.recompute_blocks = recompute_blocks
        self.bounds = [round(i * backbone.depth / parts) for i in range(parts + 1)]
        self.prior = SpatialPrior(dim, params.stem_dim)
        self.level_embedding = nn.Parameter(torch.randn(3, dim))
        self.injectors = nn.ModuleList(Injector(dim, params) for _ in range(parts))
        # as in the original, two more extractors follow the last block
        self.extractors = nn.ModuleList(Extractor(dim, params) for _ in range(parts + 2))
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norms = nn.ModuleList(group_norm(dim) for _ in range(4))

    def forward(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, embed_dim, h, w) at strides 4, 8, 16, 32."""
        stride4, *coarser = self.prior(images_B3HW)
        shapes = [(m.shape[2], m.shape[3]) for m in coarser]
        levels_SC = torch.cat([e.expand(h * w, -1) for e, (h, w) in zip(self.level_embedding, shapes, strict=True)])
        cells = _to_cells(coarser) + levels_SC
        tokens, size = self.backbone.embed(images_B3HW)
        grid, prefix = [size], self.backbone.num_prefix_tokens

        for i, injector in enumerate(self.injectors):
            patches = injector(tokens[:, prefix:], grid, cells, shapes)
            tokens = torch.cat([tokens[:, :prefix], patches], 1)
            tokens = self._run_blocks(tokens, self.bounds[i], self.bounds[i + 1], size)
            cells = self.extractors[i](cells, shapes, tokens[:, prefix:], grid)
        for extractor in self.extractors[len(self.injectors) :]:
            cells = extractor(cells, shapes, tokens[:, prefix:], grid)

        stride8, *rest = _to_maps(cells, shapes)
        maps = [stride4 + self.up(stride8), stride8, *rest]
        (patches,) = _to_maps(self.backbone.norm(tokens)[:, prefix:], grid)
        return tuple(
            norm(m + F.interpolate(patches, size=m.shape[-2:], mode="bilinear", align_corners=False))
            for norm, m in zip(self.norms, maps, strict=True)
        )

    def _run_blocks(self, tokens_BNC: Tensor, start: int, stop: int, size: tuple[int, int]) -> Tensor:
        run = self.backbone.run_blocks
        if not (self.recompute_blocks and torch.is_grad_enabled()):
            return run(tokens_BNC, start, stop, size)
        for block in range(start, stop):
            tokens_BNC = checkpoint(run, tokens_BNC, block, block + 1, size, use_reentrant=False)
        return tokens_BNC


def _to_cells(maps: list[Tensor]) -> Tensor:
    """(B, S, C) cells of maps (B, C, h, w)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)


def _to_maps(cells_BSC: Tensor, shapes: Shapes) -> list[Tensor]:
    """Maps (B, C, h, w) of cells; channels last in memory, so nothing is copied."""
    levels = cells_BSC.split([h * w for h, w in shapes], dim=1)
    return [cells.transpose(1, 2).unflatten(2, shape) for cells, shape in zip(levels, shapes, strict=True)]
