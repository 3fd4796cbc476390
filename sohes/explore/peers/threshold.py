"""Connected components of thresholded similarity at several thresholds, the simplest grouping; similar to UniAP.

Ours: the thresholds, and that only neighbours are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sohes.explore.merge.tree import unit_features


def threshold_components(features_hwC: np.ndarray, *, thetas: Sequence[float]) -> np.ndarray:
    """(N, h, w) bool: the components of two or more patches at each threshold, lowest threshold first.

    Adjacent patches (of four neighbours) are joined where their cosine reaches the threshold. Nothing is averaged, so
    one strong link joins two regions. Components of falling thresholds are nested; equal ones are returned once.
    """
    height, width, _ = features_hwC.shape
    unit = unit_features(features_hwC)
    patch = np.arange(height * width).reshape(height, width)
    first = np.concatenate([patch[:, :-1].ravel(), patch[:-1].ravel()])
    second = np.concatenate([patch[:, 1:].ravel(), patch[1:].ravel()])
    cosine = np.concatenate([(unit[:, :-1] * unit[:, 1:]).sum(2).ravel(), (unit[:-1] * unit[1:]).sum(2).ravel()])
    found: dict[bytes, np.ndarray] = {}
    for theta in sorted(thetas):
        joined = cosine >= theta
        edges = (np.ones(joined.sum(), bool), (first[joined], second[joined]))
        _, labels = connected_components(coo_array(edges, shape=(patch.size, patch.size)), directed=False)
        for label in np.flatnonzero(np.bincount(labels) > 1):
            region = (labels == label).reshape(height, width)
            found.setdefault(np.packbits(region).tobytes(), region)
    return np.stack(list(found.values())) if found else np.zeros((0, height, width), bool)
