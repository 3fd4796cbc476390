"""The network of phases 2 and 3, and its loss."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sohes.params.section import Count, Fraction, Positive, Section


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
    anchor_scale: Annotated[float, Field(gt=0)]  # side of a level's anchors, in strides of the level
    nms_iou: Fraction  # of boxes; a part's box can fill most of its whole's
    theta_cover: Fraction  # builds the forest by coverage, since there is no ancestor head


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


class LossParams(Section):
    """Loss of the mask2former head."""

    class_weight: float
    mask_weight: float
    dice_weight: float
    ancestor_weight: float
    no_object_weight: float
    num_points: Count  # sampled per mask; 0: use every cell of the mask map
    oversample_ratio: Annotated[float, Field(ge=1)]  # candidates per point, so at least 1
    importance_fraction: Fraction
    deep_supervision: bool
    matched_only: bool  # ancestor loss on matched queries only, not on all N x N
