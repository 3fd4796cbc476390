"""Predictions, their scores and the report."""

from __future__ import annotations

from typing import Literal

from sohes.params.section import Fraction, Positive, Section
from sohes.params.training import TilesParams


class EvaluateParams(Section):
    max_masks: Positive
    mask_threshold: Fraction
    nms_iou: Fraction
    ancestor_threshold: Fraction
    refiner: Literal["none", "guided", "densecrf"]  # phase 1's, on predictions; not in the paper
    refine_size: Positive  # the refiner works on images scaled to this longer side, in pixels
    refine_min_iou: Fraction
    tiles: TilesParams
    theta_cover: Fraction  # for the forest over several windows; within one, the network knows the ancestors
    batch_size: Positive  # windows at once
    images_per_shard: Positive


class ReportParams(Section):
    pictures: Positive  # example images
