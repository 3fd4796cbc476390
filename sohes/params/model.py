"""The network of phases 2 and 3, and its loss."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sohes.params.section import Amount, Count, Fraction, Positive, Scale, Section


class AdapterParams(Section):
    """ViT-Adapter (Chen et al., 2022)."""

    interactions: Positive  # injector + extractor pairs, spread evenly over the ViT's blocks
    stem_dim: Positive  # channels of the spatial prior module's first convolution
    num_heads: Positive  # of the deformable attention
    points: Positive


class CascadeParams(Section):
    """Cascade Mask R-CNN (table 8); only read with the cascade heads."""

    ious: Annotated[tuple[Fraction, ...], Field(min_length=1)]  # per box stage: IoU of a correct box
    proposals: Positive  # boxes per image that enter the first stage
    samples: Positive  # how many of them are used in training
    anchor_scale: Scale  # side of a level's anchors, in strides of the level
    nms_iou: Fraction  # of boxes; a part's box can fill most of its whole's
    theta_cover: Fraction  # builds the forest by coverage, since there is no ancestor head


STRIDE = 32  # of the network's coarsest map, in pixels
GRIDS = (1, 2, 4)  # of grid queries: places a side of each granularity, in units of g


def grid_side(num_queries: int) -> int:
    """g with g^2 + (2g)^2 + (4g)^2 = num_queries. ValueError, with the nearest valid numbers, if there is none."""
    per_unit = sum(n * n for n in GRIDS)
    g = math.isqrt(num_queries // per_unit)
    if g and per_unit * g * g == num_queries:
        return g
    fitting = [per_unit * n * n for n in range(max(g, 1), max(g, 1) + 2)]
    raise ValueError(
        f"num_queries must be {per_unit} times a square for grid queries, such as {fitting[0]} or {fitting[1]} "
        f"(got {num_queries})"
    )


class ModelParams(Section):
    """Segmenter: ViT + ViT-Adapter + Mask2Former + ancestor head (paper 3.2), or Cascade Mask R-CNN (table 8)."""

    head: Literal["mask2former", "cascade", "detectron2-cascade"]
    image_size: Positive  # side of the square that the network sees
    hidden_dim: Positive  # C
    num_queries: Positive  # with `grid`: 21 times a square number
    queries: Literal["learned", "grid"]  # grid: sampled from the mask features at fixed positions
    num_heads: Positive
    feedforward_dim: Positive
    pixel_decoder_layers: Positive
    decoder_layers: Positive
    recompute_blocks: bool  # recompute the ViT's activations in the backward pass: less memory, about 1/3 more time
    adapter: AdapterParams
    cascade: CascadeParams

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelParams:
        if self.head == "mask2former":
            if self.hidden_dim % self.num_heads:
                raise ValueError(f"num_heads {self.num_heads} must divide hidden_dim {self.hidden_dim}")
            if self.hidden_dim % 4:  # two sines and two cosines for a place
                raise ValueError(f"hidden_dim must be a multiple of 4 (got {self.hidden_dim})")
            if self.queries == "grid":
                grid_side(self.num_queries)
        return self


class LossParams(Section):
    """Loss of the mask2former head."""

    class_weight: Amount
    mask_weight: Amount
    dice_weight: Amount
    ancestor_weight: Amount
    no_object_weight: Amount
    num_points: Count  # sampled per mask; 0: use every cell of the mask map
    oversample_ratio: Annotated[float, Field(ge=1)]  # candidates per point, so at least 1
    importance_fraction: Fraction
    deep_supervision: bool
    matched_only: bool  # ancestor loss on matched queries only, not on all N x N
