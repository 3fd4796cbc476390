"""The outlines of what phase 3's teacher finds, moved to the edges in the photograph (ours): step 3 of phase 1."""

from __future__ import annotations

import numpy as np

from sohes.explore.refine.guided import GuidedRefiner
from sohes.masks import forest, packed
from sohes.params import CorrectParams
from sohes.train.augment import View
from sohes.train.lesson import Lesson
from sohes.work.transfer import to_device


def refined(lesson: Lesson, weak_HW3: np.ndarray, weak: View, params: CorrectParams, *, cell: float) -> Lesson:
    """The lesson with `refiner`'s outlines, without those that became duplicates, in a new forest by coverage.

    A mask whose IoU with its refined self is below `refine_min_iou` stays as it is. Of duplicates (IoU above `nms_iou`)
    the better one stays, which comes first. Computed on the CPU, for which a GPU waits once an image.
    weak_HW3: uint8 RGB, the weak view.  cell: side of a cell of the mask map in its pixels, for all masks: with their
    windows' own, smaller one, masks found in windows gained less (docs/log.md).
    """
    if params.refiner == "none" or not len(lesson.parents_K):
        return lesson
    size = height, width = weak.resized_hw
    coarse = lesson.masks_KSS.cpu().numpy()
    before = packed.pack(coarse[:, :height, :width], size=size)
    after = GuidedRefiner(cell).refine(weak_HW3[:height, :width], before)
    settled, _ = packed.settle(after, before, min_iou=params.refine_min_iou)
    settled = settled[packed.suppress(settled, nms_iou=params.nms_iou)]
    drawn = np.zeros((len(settled), *coarse.shape[1:]), bool)
    drawn[:, :height, :width] = settled.unpacked()
    return Lesson(
        to_device(lesson.masks_KSS.device, drawn),
        forest.parents_by_coverage(packed.intersections(settled), theta_cover=params.theta_cover),
        packed.areas(settled) / (height * width),
    )
