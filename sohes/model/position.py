"""Sine embeddings of places in an image, as in DETR and Mask2Former."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_embedding(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """(..., dim) float32: the first half encodes y, the second x, both in [0, 1], sine and cosine in turns.

    ValueError if `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"a sine embedding has a multiple of 4 channels (got {dim})")
    wavelength = 10000 ** (torch.arange(0, dim // 2, 2, device=x.device) / (dim // 2))
    phase = 2 * math.pi * torch.stack([y, x], -1)[..., None] / wavelength
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-3)


def map_embedding(h: int, w: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(h x w, dim) embeddings of a map's cells, row by row; the last cell of a side is 1 (Mask2Former)."""
    y, x = torch.meshgrid(
        torch.arange(1, h + 1, device=device) / (h + 1e-6),
        torch.arange(1, w + 1, device=device) / (w + 1e-6),
        indexing="ij",
    )
    return sine_embedding(x, y, dim).flatten(0, 1)
