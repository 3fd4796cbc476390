"""Predictions, their scores and the report."""

from __future__ import annotations

from typing import Literal

from sohes.params.section import Fraction, Positive, Section
from sohes.params.training import TilesParams


class EvaluateParams(Section):
    """How the network's outputs become masks, wherever a trained model is used."""

    max_masks: Positive
    """The most masks of an image, best scores first."""
    mask_threshold: Fraction
    """A pixel belongs to a mask above this probability."""
    nms_iou: Fraction
    """Masks with a higher IoU are duplicates, of which the best stays; ours, the paper names no NMS here."""
    votes: bool
    """A mask counts the scores of its duplicates, too; not in the paper, where it keeps its own."""
    ancestor_threshold: Fraction
    """A mask is an ancestor of a smaller one above this probability."""
    coverage: bool
    """Ours: who covers `theta_cover` of a mask is its ancestor; only where nobody does, the ancestor head is asked."""
    refiner: Literal["none", "guided", "densecrf"]
    """Phase 1's refiner, on predictions; not in the paper."""
    refine_size: Positive
    """The refiner works on images scaled to this longer side, in pixels; masks without a pixel there are dropped."""
    refine_min_iou: Fraction
    """A mask whose IoU with its refined self is lower stays unrefined."""
    tiles: TilesParams
    theta_cover: Fraction
    """As in phase 1, for the forest over several windows, and with `coverage` within each."""
    batch_size: Positive
    """Windows that are predicted at once."""
    images_per_shard: Positive
    """Photographs predicted as one piece of work, which a stop does not undo."""


class ReportParams(Section):
    """The page `reports/index.html`."""

    pictures: Positive
    """Example images in the report."""
