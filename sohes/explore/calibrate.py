"""Merging thresholds adapted to other features (ours).

The paper's six thresholds are cosines of one backbone's tokens. Other features lie closer together or further apart, so
the same cosine may mean an early merge for one and a late merge for another. The share of merges done is comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sohes.explore.merge.tree import MergeTree, merges_before

APART = 1e-4  # the least gap between two thresholds


def matched_thresholds(
    theta_merge: Sequence[float], known: Sequence[MergeTree], other: Sequence[MergeTree]
) -> tuple[float, ...]:
    """The strictly falling cosines at which the average share of merges done in `other` is that in `known` at
    `theta_merge`. The two may hold trees of different images."""
    shares = np.mean([merges_before(tree, theta_merge) / len(tree.similarity_M) for tree in known], axis=0)
    return _thresholds_at(shares, other)


def thresholds_for(regions: Sequence[int], trees: Sequence[MergeTree]) -> tuple[float, ...]:
    """The strictly falling cosines at which about so many regions of the average tree are left.

    regions: falling. The trees are of maps of one size. ValueError if that has fewer patches than `regions` asks for.
    """
    patches = trees[0].num_leaves
    if max(regions) > patches:
        raise ValueError(f"a map of {patches} patches has no {max(regions)} regions")
    return _thresholds_at((patches - np.array(regions)) / (patches - 1), trees)


def _thresholds_at(shares: np.ndarray, trees: Sequence[MergeTree]) -> tuple[float, ...]:
    """Where these shares of the merges are done, on average."""
    levels = [np.minimum.accumulate(tree.similarity_M) for tree in trees]
    weights = np.concatenate([np.full(len(level), 1 / len(level) / len(levels)) for level in levels])
    pooled = np.concatenate(levels)
    order = np.argsort(-pooled, kind="stable")
    done = np.cumsum(weights[order])
    found = pooled[order][np.minimum(np.searchsorted(done, shares), len(pooled) - 1)]
    return tuple(float(np.round(theta, 4)) for theta in _falling(found))


def _falling(thetas: np.ndarray) -> np.ndarray:
    """Each at least APART below the one before, so that close thresholds stay distinct when rounded."""
    steps = APART * np.arange(len(thetas))
    return np.minimum.accumulate(np.round(thetas, 4) + steps) - steps
