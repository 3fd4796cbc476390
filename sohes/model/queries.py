"""Where the mask decoder's queries start: learned (Mask2Former), or sampled from the image on a pyramid of grids.

Learned queries must first find out where to look and then what for, which takes thousands of steps. Grid queries
(ours) begin with an answer: the query at a place proposes the pixels that look like that place, within a window around
it. Places form three grids of g x g, 2g x 2g and 4g x 4g with windows of half the size each time, since an image has
few large entities and many small ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sohes.backbone.precision import full_precision
from sohes.model.position import sine_embedding
from sohes.params.model import GRIDS, grid_side


class Start(NamedTuple):
    """The decoder's input.  prior_BQC: the queries' mask embeddings before anything is decoded."""

    queries_BQC: Tensor
    positions_BQC: Tensor
    mask_features_BChw: Tensor
    prior_BQC: Tensor | None


class LearnedQueries(nn.Module):
    """Mask2Former's: a learned feature and a learned position for each query, the same for every image."""

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(num_queries, dim))
        self.positions = nn.Parameter(torch.randn(num_queries, dim))

    def forward(self, mask_features_BChw: Tensor) -> Start:
        B = len(mask_features_BChw)
        return Start(self.features.expand(B, -1, -1), self.positions.expand(B, -1, -1), mask_features_BChw, None)


class GridQueries(nn.Module):
    """Features sampled from the mask features at fixed places; positions are the places' sine embeddings."""

    places_Q2: Tensor
    radius_Q: Tensor
    level_Q: Tensor

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        g = grid_side(num_queries)
        places, radii, levels = [], [], []
        for level, n in enumerate(g * unit for unit in GRIDS):
            side = (torch.arange(n) + 0.5) / n
            y, x = torch.meshgrid(side, side, indexing="ij")
            places.append(torch.stack([x, y], -1).flatten(0, 1))
            radii.append(torch.full((n * n,), 1 / n))
            levels.append(torch.full((n * n,), level))
        self.register_buffer("places_Q2", torch.cat(places), persistent=False)
        self.register_buffer("radius_Q", torch.cat(radii), persistent=False)
        self.register_buffer("level_Q", torch.cat(levels), persistent=False)
        self.embedding = nn.Parameter(torch.randn(num_queries, dim) * 0.1)
        self.level_embedding = nn.Parameter(torch.randn(len(GRIDS), dim) * 0.1)
        self.project = nn.Linear(dim, dim)
        self.gain = nn.Parameter(torch.tensor(5.0))  # logit of a pixel that looks just like the place
        self.bias = nn.Parameter(torch.tensor(math.log(0.1 / 0.9)))  # as if an entity covered a tenth of the image
        self.window = nn.Linear(dim, 4)
        nn.init.zeros_(self.window.weight)
        nn.init.zeros_(self.window.bias)

    def forward(self, mask_features_BChw: Tensor) -> Start:
        """The mask features come back centred and scaled, so that likeness counts and not what all cells share."""
        B, C = mask_features_BChw.shape[:2]
        with full_precision(mask_features_BChw.device):
            features = mask_features_BChw.float()
            grid = (2 * self.places_Q2 - 1).expand(B, 1, -1, -1)
            sampled = F.grid_sample(features, grid, align_corners=False)[:, :, 0].transpose(1, 2)
            # the places are spread evenly, so they represent the whole map at a small part of the cost
            mean = sampled.mean(1, keepdim=True)
            deviation = ((sampled - mean).square().mean((1, 2), keepdim=True) + 1e-6).sqrt()
            sampled = (sampled - mean) / deviation
            features = (features - mean.transpose(1, 2)[..., None]) / deviation[..., None]
        x, y = self.places_Q2.unbind(-1)
        positions = sine_embedding(x, y, C) + self.level_embedding[self.level_Q]
        return Start(
            self.project(sampled) + self.embedding, positions.expand(B, -1, -1), features, sampled * (self.gain / C)
        )

    @staticmethod
    def for_grids(embedding_QC: Tensor, num_queries: int) -> Tensor:
        """Embeddings of `num_queries` queries, between those of the places around each: grids may grow finer (ours)."""
        before, after = grid_side(len(embedding_QC)), grid_side(num_queries)
        grids = embedding_QC.split([(before * unit) ** 2 for unit in GRIDS])
        fitted = []
        for unit, grid_PC in zip(GRIDS, grids, strict=True):
            map_1Chw = grid_PC.T.reshape(1, -1, before * unit, before * unit)
            size = (after * unit, after * unit)
            fitted.append(F.interpolate(map_1Chw, size=size, mode="bilinear", align_corners=False)[0].flatten(1).T)
        return torch.cat(fitted)

    def window_logits(self, queries_BKQC: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        """(B, K, Q, h) and (B, K, Q, w) for the normed queries of K stages: their sum is about `bias` within a
        query's window and falls steadily outside."""
        with full_precision(queries_BKQC.device):
            shift, grow = self.window(queries_BKQC.float()).split(2, -1)
            radius_Q1 = self.radius_Q[:, None]
            centre = self.places_Q2 + radius_Q1 * shift
            reach = radius_Q1 * grow.clamp(-4, 4).exp()
            falls = []
            for axis, cells in ((1, h), (0, w)):
                place = (torch.arange(cells, device=self.places_Q2.device) + 0.5) / cells
                distance = (place - centre[..., axis, None]).abs() / reach[..., axis, None]
                falls.append(-F.softplus(2 * (distance - 1)))
        return falls[0] + self.bias, falls[1]
