"""Move the outlines of predicted masks to the edges in the image (ours): step 3 of phase 1, on predictions.

The mask map has one cell per 4 x 4 pixels of the network's input, so even a correct mask is off by a few pixels along
its outline. The refiners of phase 1 (paper 3.1) fix that, even for a network trained for a few minutes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sohes import masks
from sohes.data.imaging import fit
from sohes.explore.refine import make_refiner
from sohes.masks import forest, packed
from sohes.masks.packed import PackedMasks
from sohes.masks.stretch import encode_stretched, packed_at
from sohes.structures import MaskSet


def refine_masks(
    image_HW3: np.ndarray,
    found: MaskSet,
    *,
    refiner: str,
    outline_error: float | np.ndarray,
    longest: int,
    refine_min_iou: float,
    nms_iou: float,
) -> MaskSet:
    """The masks, best first, refined by `explore.refine`'s `refiner`. Scores do not change.

    outline_error: how far outlines are off, as a fraction of the image's longer side, for all or (N,) for each.
    longest: the image is scaled to at most this longer side, in pixels, which bounds time and memory. A mask that would
    change too much (IoU below `refine_min_iou`) stays as it is. A mask that becomes a duplicate of a better one (IoU
    above `nms_iou`) is removed, and so is a speck that has no pixel at that size.
    A parent that is no longer larger than its child passes the child to the next larger ancestor.
    """
    if refiner == "none" or not len(found):
        return found
    view = fit(image_HW3, longest)
    before = packed_at(found, view.shape[:2])
    patches_N = np.broadcast_to(outline_error * max(view.shape[:2]), len(found))
    after = _refined(view, before, refiner, patches_N)
    settled, alike = packed.settle(after, before, min_iou=refine_min_iou)
    enlarged = encode_stretched(settled, (found.height, found.width))
    rles = tuple(new if same else old for new, old, same in zip(enlarged, found.rles, alike, strict=True))
    refined = replace(found, rles=rles)
    refined = replace(refined, parents=forest.larger_parents(found.parents, masks.areas(refined)))
    return forest.select(refined, packed.suppress(settled, nms_iou=nms_iou))


def _refined(view_HW3: np.ndarray, before: PackedMasks, refiner: str, patches_N: np.ndarray) -> PackedMasks:
    """The masks, each refined for its own error in pixels, in their order."""
    refined, order = [], []
    for patch in np.unique(patches_N):
        order.append(np.flatnonzero(patches_N == patch))
        refined.append(make_refiner(refiner, patch=float(patch)).refine(view_HW3, before[order[-1]]))
    return packed.join(refined, size=before.size)[np.argsort(np.concatenate(order))]
