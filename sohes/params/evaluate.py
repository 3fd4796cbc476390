"""Predictions, their scores and the report."""

from __future__ import annotations

from typing import Literal

from sohes.params.section import Fraction, Positive, Section
from sohes.params.training import TilesParams


class EvaluateParams(Section):
    """How the network's outputs become masks, wherever a trained model is used."""

    max_masks: Positive  # the most masks of an image, best scores first
    mask_threshold: Fraction  # a pixel belongs to a mask above this probability
    nms_iou: Fraction  # masks with a higher IoU are duplicates, of which the best stays
    ancestor_threshold: Fraction  # a mask is an ancestor of a smaller one above this probability
    refiner: Literal["none", "guided", "densecrf"]  # phase 1's, on predictions; not in the paper
    refine_size: Positive  # the refiner works on images scaled to this longer side, in pixels
    refine_min_iou: Fraction  # a mask whose IoU with its refined self is lower stays unrefined
    tiles: TilesParams
    theta_cover: Fraction  # for the forest over several windows; within one, the network knows the ancestors
    batch_size: Positive  # windows at once
    images_per_shard: Positive  # photographs predicted as one piece of work, which a stop does not undo


class ReportParams(Section):
    """The page `reports/index.html`."""

    pictures: Positive  # example images in the report
