"""The merge of a feature map, the plain way: the definition that the kernel is tested against (paper 3.1 step 1)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sohes.explore.merge.kernel import ONE


def reference_merge(
    features_hwC: np.ndarray,
    *,
    dtype: type[np.floating] = np.float64,
    dot: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.matmul,
) -> tuple[np.ndarray, np.ndarray]:
    """Children (M, 2), lower node first, and similarities (M,) of the M = h w - 1 merges.

    Scans the table of all edges for each merge. Numbers and ties as in `sohes.explore.merge.tree.merge_tree`.
    dtype: of the sums of features.  dot: the (K,) products of (K, C) features with one of (C,).
    """
    height, width, channels = features_hwC.shape
    n = height * width
    sums = np.zeros((2 * n - 1, channels), dtype)  # of each node's patches: as good as their mean for a cosine
    sums[:n] = features_hwC.reshape(n, channels)
    norms = np.zeros(2 * n - 1)
    norms[:n] = [np.sqrt(dot(row[None], row)[0]) for row in sums[:n]]

    def similarities(node: int, others: np.ndarray) -> np.ndarray:
        scale = norms[others] * norms[node]
        cosines = np.divide(dot(sums[others], sums[node]), scale, out=np.zeros(len(others)), where=scale > 0)
        return np.where(cosines >= ONE, 1.0, cosines)

    patches = np.arange(n).reshape(height, width)
    right, down = (patches[:, :-1], patches[:, 1:]), (patches[:-1], patches[1:])
    ends = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in (right, down)], axis=1)  # lower, higher
    similarity = np.array([similarities(a, ends[1:, e])[0] for e, a in enumerate(ends[0])])
    children, merged_at = np.empty((n - 1, 2), np.int64), np.empty(n - 1)
    for m in range(n - 1):
        merged_at[m] = similarity.max()
        ties = ends[:, similarity == merged_at[m]]
        a, b = children[m] = ties[:, np.lexsort(ties[::-1])[0]]
        sums[n + m] = sums[a] + sums[b]
        norms[n + m] = np.sqrt(dot(sums[n + m, None], sums[n + m])[0])
        is_end = (ends == a) | (ends == b)
        gone, moved = np.flatnonzero(is_end[0] & is_end[1]), np.flatnonzero(is_end[0] ^ is_end[1])
        similarity[gone], ends[:, gone] = -np.inf, -1
        others = np.where(is_end[0, moved], ends[1, moved], ends[0, moved])
        ends[:, moved] = others, np.full(len(moved), n + m)  # two edges to one neighbour say the same: both may stay
        similarity[moved] = similarities(n + m, others)
    return children, merged_at
