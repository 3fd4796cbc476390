"""UnSAM's divide and conquer (Wang et al., 2024): cut the image into objects, then cluster each from its patches up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sohes.explore.merge.tree import merge_tree, region_masks, select_regions
from sohes.explore.peers.maskcut import maskcut
from sohes.masks import bounding_boxes


def divide_and_conquer(
    features_hwC: np.ndarray, *, tau: float, cuts: int, theta_merge: Sequence[float], nms_iou: float
) -> np.ndarray:
    """(N, h, w) bool: each object of `maskcut` (divide), followed by the regions that merge inside it (conquer).

    It differs from the authors' code in all of this. The objects come from cuts of these features, where UnSAM uses
    CutLER's trained detector. An object's patches merge as the whole image shows them; UnSAM resizes the object's box
    to 256 x 256 pixels and extracts its features again. A region is kept if it lies wholly inside the object and has
    two patches or more; UnSAM keeps one of which more than 0.9 lies inside, of four patches or more. And what the cuts
    leave is conquered like an object, otherwise stuff would never be found.
    """
    objects = maskcut(features_hwC, tau=tau, cuts=cuts)
    rest = ~np.logical_or.reduce(objects, axis=0)
    places = np.concatenate([objects, rest[None]]) if rest.any() else objects
    found = [objects]
    for place_hw in places:
        (y0, x0, y1, x1) = bounding_boxes(place_hw[None])[0]
        inside = place_hw[y0:y1, x0:x1]
        # A feature of norm zero has cosine 0 with all others, so nothing merges outside the object.
        tree = merge_tree(np.where(inside[..., None], features_hwC[y0:y1, x0:x1], 0))
        regions = region_masks(tree, select_regions(tree, theta_merge=theta_merge, nms_iou=nms_iou))
        regions = regions[~(regions & ~inside).any((1, 2))]
        placed = np.zeros((len(regions), *place_hw.shape), bool)
        placed[:, y0:y1, x0:x1] = regions
        found.append(placed)
    return np.concatenate(found)
