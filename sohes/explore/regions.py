"""How many regions phase 1 merges an image into at which threshold (paper figure 8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sohes.explore.merge.tree import MergeTree, regions_at_thresholds

THRESHOLDS = tuple(k / 20 for k in range(2, 18))  # 0.1 to 0.85


def region_counts(tree: MergeTree, thresholds: Sequence[float] = THRESHOLDS) -> np.ndarray:
    """(T,) int64: the regions of more than one patch at each threshold."""
    return np.array([np.count_nonzero(tree.area_K[nodes] > 1) for nodes in regions_at_thresholds(tree, thresholds)])
