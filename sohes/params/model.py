"""The network of phases 2 and 3, and its loss."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sohes.params.section import Amount, Count, Fraction, Positive, Section


class AdapterParams(Section):
    """ViT-Adapter (Chen et al., 2022)."""

    interactions: Positive
    """Injector + extractor pairs, spread evenly over the ViT's blocks."""
    stem_dim: Positive
    """Channels of the spatial prior module's first convolution."""
    num_heads: Positive
    """Heads of the deformable attention."""
    points: Positive
    """Places that a head samples in each map."""


class CascadeParams(Section):
    """Cascade Mask R-CNN (table 8); only read with the cascade heads."""

    ious: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    """The IoU of a correct box, for each box stage."""
    proposals: Positive
    """Boxes per image that enter the first stage: at most so many masks, and no more than `num_queries`."""
    samples: Positive
    """How many of the proposals are used in training."""
    anchor_scale: Annotated[float, Field(ge=0.5)]
    """Side of a level's anchors, in strides of the level."""
    nms_iou: Fraction
    """Boxes with a higher IoU are duplicates; a part's box can fill most of its whole's."""
    theta_cover: Fraction
    """As in phase 1: it builds the forest, since there is no ancestor head."""


STRIDE = 32  # of the network's coarsest map, in pixels
GRIDS = (1, 2, 4)  # of grid queries: places a side of each granularity, in units of g


def check_side(key: str, side: int, patch_size: int) -> None:
    """ValueError if a square of this side is not made of whole patches and whole cells of an adapter's coarsest map."""
    if side % patch_size or side % STRIDE:
        raise ValueError(f"{key} must be a multiple of {STRIDE} and of backbone.patch_size {patch_size} (got {side})")


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
    """What finds the masks; the cascades are for table 8."""
    image_size: Positive
    """Side of the square that the network sees, in pixels."""
    hidden_dim: Positive
    """C: channels of maps and queries."""
    num_queries: Positive
    """The most masks of an image, also of a cascade, whose `proposals` limit them, too; `grid`: 21 times a square."""
    queries: Literal["learned", "grid"]
    """Where queries come from; `grid`: sampled from the mask features at fixed positions."""
    num_heads: Positive
    """Attention heads of both decoders."""
    feedforward_dim: Positive
    """Hidden channels of a mask decoder layer; the pixel decoder's have half."""
    pixel_decoder_layers: Positive
    """Layers in which the maps of several scales exchange what they know."""
    decoder_layers: Positive
    """Layers in which queries look at the maps and at each other."""
    recompute_blocks: bool
    """Recompute the ViT's activations in the backward pass: less memory, about 1/3 more time."""
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

    @property
    def of_weights(self) -> dict[str, object]:
        """What decides which weights there are and what they mean; not how the computer goes about it."""
        unread = {"recompute_blocks"} | ({"cascade"} if self.head == "mask2former" else set())
        return self.model_dump(exclude=unread)

    def check_fits(self, *, embed_dim: int, depth: int, patch_size: int) -> None:
        """ValueError if a ViT of this shape cannot carry the network."""
        adapter = self.adapter
        if embed_dim // 2 % adapter.num_heads:
            raise ValueError(
                f"model.adapter.num_heads {adapter.num_heads} must divide half of backbone.embed_dim {embed_dim}"
            )
        if adapter.interactions > depth:
            raise ValueError(
                f"model.adapter.interactions {adapter.interactions} must not exceed backbone.depth {depth}"
            )
        check_side("model.image_size", self.image_size, patch_size)


class LossParams(Section):
    """Loss of the mask2former head."""

    class_weight: Amount
    """Weight of telling entities from nothing."""
    matching_class_weight: Amount
    """Weight of the class head in matching, `class_weight` in Mask2Former; 0: only masks count there."""
    queries_per_target: Annotated[int, Field(ge=1)]
    """At most so many queries learn a target: the matched one, then those whose masks resemble it most."""
    near_dice: Annotated[float, Field(gt=0, le=1)]
    """From this Dice on a mask resembles a target: its query is not told that it is nothing. Not read with 1 query."""
    mask_weight: Amount
    """Weight of the masks' cross-entropy, also in matching."""
    dice_weight: Amount
    """Weight of the masks' overlap (dice), also in matching."""
    ancestor_weight: Amount
    """Weight of which mask is an ancestor of which."""
    no_object_weight: Amount
    """Weight of a query that is told that it is nothing in the class part; one with an entity weighs 1."""
    num_points: Count
    """Points at which masks are compared; 0: every cell of the mask map."""
    oversample_ratio: Annotated[float, Field(ge=1)]
    """Candidates per point; the most uncertain are chosen."""
    importance_fraction: Fraction
    """Share of the points that is chosen so; the others are random."""
    deep_supervision: bool
    """Whether predictions before and between the decoder's layers count, too."""
    matched_only: bool
    """Compute the ancestor loss on matched queries only, not on all N x N."""
