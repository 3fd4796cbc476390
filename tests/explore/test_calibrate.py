from __future__ import annotations

import numpy as np
import pytest

from sohes.explore.calibrate import matched_thresholds
from sohes.explore.merge.tree import MergeTree, merge_tree, merges_before

THETA_MERGE = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def trees(seeds: range, offset: float) -> list[MergeTree]:
    """Of random maps; a common part, `offset`, draws all features together."""
    return [
        merge_tree(np.random.default_rng(seed).standard_normal((12, 12, 6)).astype(np.float32) + np.float32(offset))
        for seed in seeds
    ]


def test_the_same_features_keep_their_thresholds() -> None:
    known = trees(range(6), 0.0)
    np.testing.assert_allclose(matched_thresholds(THETA_MERGE, known, known), THETA_MERGE, atol=0.05)


def test_as_large_a_share_of_the_merges_is_done() -> None:
    known, other = trees(range(6), 0.0), trees(range(6, 12), 1.0)
    thetas = matched_thresholds(THETA_MERGE, known, other)
    assert list(thetas) == sorted(set(thetas), reverse=True)
    assert min(thetas) > max(THETA_MERGE) / 2  # they lie closer together

    def shares(of: list[MergeTree], at: tuple[float, ...]) -> np.ndarray:
        return np.mean([merges_before(tree, at) / len(tree.similarity_M) for tree in of], axis=0)

    np.testing.assert_allclose(shares(other, thetas), shares(known, THETA_MERGE), atol=0.03)
    assert np.abs(shares(other, THETA_MERGE) - shares(known, THETA_MERGE)).max() > 0.1


def test_thresholds_fall_where_all_features_are_alike() -> None:
    alike = [merge_tree(np.ones((4, 4, 3), np.float32))]
    thetas = matched_thresholds(THETA_MERGE, trees(range(2), 0.0), alike)
    assert list(thetas) == sorted(set(thetas), reverse=True)
    assert thetas[0] == pytest.approx(1)
