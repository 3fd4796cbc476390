"""Multi-scale deformable attention (Zhu et al., 2021) without compiled extensions.

Letters besides the legend of `sohes.structures`: M heads, D channels of a head, L levels, P points, S cells of all
levels together, level after level, row by row. A place is (x, y) in [0, 1], from the image's upper left corner.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sohes.backbone.precision import full_precision
from sohes.model.sampling import Shapes, sample_levels


def cell_places(shapes: Shapes, device: torch.device | None = None) -> Tensor:
    """(S, 2) float32 places of the cells' centres."""
    levels = []
    for h, w in shapes:
        y, x = torch.meshgrid(
            (torch.arange(h, device=device) + 0.5) / h, (torch.arange(w, device=device) + 0.5) / w, indexing="ij"
        )
        levels.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(levels)


class DeformableAttention(nn.Module):
    """Each query gathers a few weighted samples per head and level around its own place.

    value_dim: channels that are sampled, by default `dim`. ValueError if the heads do not divide it.
    """

    def __init__(self, dim: int, *, num_heads: int, levels: int, points: int, value_dim: int | None = None) -> None:
        super().__init__()
        value_dim = dim if value_dim is None else value_dim
        if value_dim % num_heads:
            raise ValueError(f"num_heads must divide the sampled channels {value_dim} (got {num_heads})")
        self.shape_MLP = (num_heads, levels, points)
        self.offsets = nn.Linear(dim, num_heads * levels * points * 2)
        self.weights = nn.Linear(dim, num_heads * levels * points)
        self.value = nn.Linear(dim, value_dim)
        self.out = nn.Linear(value_dim, dim)
        self._reset()

    def _reset(self) -> None:
        """Each head looks in its own direction, point p at p + 1 cells; all with the same weight."""
        M, L, P = self.shape_MLP
        angle = torch.arange(M) * (2 * math.pi / M)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, P + 1)[:, None]
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_((direction[:, None, None] * steps).expand(M, L, P, 2).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, queries_BQC: Tensor, places_Q2: Tensor, features_BSC: Tensor, shapes: Shapes) -> Tensor:
        """(B, Q, C) from the features of `shapes`."""
        B, Q, _ = queries_BQC.shape
        S = features_BSC.shape[1]
        M, L, P = self.shape_MLP
        values = self.value(features_BSC).view(B, S, M, -1)
        offsets = self.offsets(queries_BQC).view(B, Q, M, L, P, 2)
        weights = self.weights(queries_BQC).view(B, Q, M, L * P)
        with full_precision(queries_BQC.device):
            cells_L2 = torch.tensor([(w, h) for h, w in shapes]).to(queries_BQC.device, non_blocking=True)
            places = places_Q2[:, None, None, None] + offsets.float() / cells_L2[:, None]
            weights = weights.float().softmax(-1).view(B, Q, M, L, P)
            sampled = sample_levels(values.float(), shapes, places, weights)
        return self.out(sampled.to(values.dtype))
