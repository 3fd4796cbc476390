"""Mask2Former's pixel decoder: deformable encoder over strides 8, 16, 32, then one FPN step to stride 4."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sohes.model.deformable import DeformableAttention, cell_places
from sohes.model.norm import group_norm
from sohes.model.position import map_embedding
from sohes.model.sampling import Shapes


class PixelFeatures(NamedTuple):
    """mask_features_BChw: stride 4.  levels_BSC: cells at strides 32, 16, 8, of the sizes `shapes`."""

    mask_features_BChw: Tensor
    levels_BSC: tuple[Tensor, ...]
    shapes: tuple[tuple[int, int], ...]


class EncoderLayer(nn.Module):
    """Deformable self-attention over all levels and a feed-forward net, normalised after each."""

    def __init__(self, dim: int, *, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, num_heads=num_heads, levels=3, points=4)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward_dim), nn.ReLU(), nn.Linear(feedforward_dim, dim))
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, cells_BSC: Tensor, positions_SC: Tensor, places_S2: Tensor, shapes: Shapes) -> Tensor:
        attended = self.attention(cells_BSC + positions_SC, places_S2, cells_BSC, shapes)
        cells_BSC = self.attention_norm(cells_BSC + attended)
        return self.feedforward_norm(cells_BSC + self.feedforward(cells_BSC))


class PixelDecoder(nn.Module):
    """in_dim: channels of the four maps that come in; dim: of everything that goes out."""

    def __init__(self, in_dim: int, dim: int, *, num_heads: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Sequential(nn.Conv2d(in_dim, dim, 1), group_norm(dim)) for _ in range(3))
        self.level_embedding = nn.Parameter(torch.randn(3, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads=num_heads, feedforward_dim=feedforward_dim) for _ in range(layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(in_dim, dim, 1, bias=False), group_norm(dim))
        self.smooth = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, bias=False), group_norm(dim), nn.ReLU())
        self.mask_projection = nn.Conv2d(dim, dim, 1)
        for block in (*self.project, self.lateral, self.smooth):
            nn.init.xavier_uniform_(block[0].weight)
            if block[0].bias is not None:
                nn.init.zeros_(block[0].bias)

    def forward(self, maps: tuple[Tensor, Tensor, Tensor, Tensor]) -> PixelFeatures:
        """From the maps at strides 4, 8, 16, 32."""
        finest, *coarser = maps
        projected = [project(m) for project, m in zip(self.project, reversed(coarser), strict=True)]
        shapes = tuple((m.shape[2], m.shape[3]) for m in projected)
        dim, device = projected[0].shape[1], finest.device
        positions_SC = torch.cat(
            [map_embedding(h, w, dim, device) + self.level_embedding[i] for i, (h, w) in enumerate(shapes)]
        )
        cells_BSC = torch.cat([m.flatten(2).transpose(1, 2) for m in projected], 1)
        places_S2 = cell_places(shapes, device)
        for layer in self.layers:
            cells_BSC = layer(cells_BSC, positions_SC, places_S2, shapes)

        levels_BSC = cells_BSC.split([h * w for h, w in shapes], dim=1)
        stride8 = levels_BSC[-1].transpose(1, 2).unflatten(2, shapes[-1])
        lateral = self.lateral(finest)
        up = F.interpolate(stride8, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(self.mask_projection(self.smooth(lateral + up)), levels_BSC, shapes)
