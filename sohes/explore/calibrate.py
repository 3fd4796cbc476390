"""Merging thresholds that mean the same for other features (ours).

The paper's six thresholds are cosines of one backbone's tokens. Other features lie closer together or further apart, so
that the same cosine stands for an early merge here and a late one there; a share of all merges means the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sohes.explore.merge.tree import MergeTree, merges_before

APART = 1e-4  # thresholds fall by at least so much


def matched_thresholds(
    theta_merge: Sequence[float], known: Sequence[MergeTree], other: Sequence[MergeTree]
) -> tuple[float, ...]:
    """The cosines at which, on average over maps, as large a share of the merges is done in `other` as in `known` at
    `theta_merge`. Both hold the trees of some images, not necessarily the same ones; the result falls strictly."""
    shares = np.mean([merges_before(tree, theta_merge) / len(tree.similarity_M) for tree in known], axis=0)
    levels = [np.minimum.accumulate(tree.similarity_M) for tree in other]
    weights = np.concatenate([np.full(len(level), 1 / len(level) / len(levels)) for level in levels])
    pooled = np.concatenate(levels)
    order = np.argsort(-pooled, kind="stable")
    done = np.cumsum(weights[order])
    found = pooled[order][np.minimum(np.searchsorted(done, shares), len(pooled) - 1)]
    return tuple(float(np.round(theta, 4)) for theta in _falling(found))


def _falling(thetas: np.ndarray) -> np.ndarray:
    """Each at least APART below the one before: where the others lie dense, rounding would make them one."""
    steps = APART * np.arange(len(thetas))
    return np.minimum.accumulate(np.round(thetas, 4) + steps) - steps
