"""HASSOD's hierarchical adaptive clustering (Cao et al., 2023): the thresholds decide the number of objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sohes.explore.merge.tree import merge_tree, region_masks, select_regions


def adaptive_clusters(features_hwC: np.ndarray, *, theta_merge: Sequence[float], nms_iou: float) -> np.ndarray:
    """(N, h, w) bool: the merged regions at each threshold that do not look like background.

    Adjacent regions merge as in SOHES's first step, with fewer and lower thresholds. Ours: a region with two or more of
    the image's corners is background; there is no CRF, as all methods share one refiner; single patches are dropped, as
    in SOHES.
    """
    tree = merge_tree(features_hwC)
    regions = region_masks(tree, select_regions(tree, theta_merge=theta_merge, nms_iou=nms_iou))
    corners = regions[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(1)
    return regions[corners < 2]
