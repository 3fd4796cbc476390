"""The teacher looks again, inside crops of its own large masks, for parts too small to be found in the whole view.

Not in the paper; later work reports that it gains a few points of AR. Off unless `correct.parent_crops` is set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes.masks.windows import Box, Window
from sohes.params import CorrectParams
from sohes.structures import ModelOutput
from sohes.train.augment import View
from sohes.train.closer import find, joined
from sohes.train.lesson import Lesson, areas_of
from sohes.train.tiles import Tiles
from sohes.work.transfer import to_device


@torch.no_grad()
def with_children(
    lesson: Lesson,
    weak_3SS: Tensor,
    weak: View,
    shown: Box,
    teacher: Callable[[Tensor], ModelOutput],
    params: CorrectParams,
    *,
    rng: np.random.Generator,
) -> Lesson:
    """The lesson, and what the teacher finds in crops of its `parent_crops` largest masks, in one forest.

    A mask found in a crop is added if at least `child_cover` of it lies in the mask that was cropped and it duplicates
    none (`closer.joined`).
    weak_3SS: the normalised weak view.  shown: the part of it that the student sees.
    Only masks of `parent_min_fraction` of the image or more are cropped.
    """
    wide = np.flatnonzero(lesson.area_fractions_K >= params.parent_min_fraction)
    chosen = wide[np.argsort(-lesson.area_fractions_K[wide], kind="stable")][: params.parent_crops]
    if not len(chosen):
        return lesson
    boxes = _boxes(lesson.masks_KSS[to_device(lesson.masks_KSS.device, chosen)])
    size = weak_3SS.shape[-1]
    crops = [weak_3SS[None, :, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes]
    output = teacher(torch.cat([F.interpolate(c, (size, size), mode="bilinear", align_corners=False) for c in crops]))
    seen = Tiles((), tuple(Window(box, 0) for box in boxes), ((size, size),) * len(boxes))
    found = find(output, seen, params, size=size, within=None)
    parents_MSS = lesson.masks_KSS[to_device(lesson.masks_KSS.device, chosen[found.of_window_M])]
    is_part = _lies_inside(found.masks_MSS, parents_MSS, child_cover=params.child_cover)
    parts_MSS = found.masks_MSS[to_device(found.masks_MSS.device, np.flatnonzero(is_part))]
    return joined(lesson.masks_KSS, parts_MSS, weak, shown, params, rng=rng)


def _boxes(masks_KSS: Tensor) -> list[Box]:
    """Half-open boxes (y0, x0, y1, x1) of masks that are not empty."""
    filled = torch.stack([masks_KSS.any(2), masks_KSS.any(1)], 1).cpu().numpy()
    spans = [[np.flatnonzero(line) for line in lines] for lines in filled]
    return [(int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1) for y, x in spans]


def _lies_inside(masks_MSS: Tensor, parents_MSS: Tensor, *, child_cover: float) -> np.ndarray:
    """(M,) bool: whether a mask is smaller than its parent and at least `child_cover` of it lies in there."""
    areas, shared = areas_of(masks_MSS), areas_of(masks_MSS & parents_MSS)
    return ((areas < areas_of(parents_MSS)) & (shared >= child_cover * areas)).cpu().numpy()
