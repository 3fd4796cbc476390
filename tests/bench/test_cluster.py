from __future__ import annotations

import numpy as np
import pytest

from sohes.bench.cluster import bench_cluster, brute_force_merge, pattern_features


@pytest.mark.parametrize("pattern", ["structured", "giant", "noise", "constant"])
def test_patterns_are_finite_and_repeatable(pattern):
    features = pattern_features(pattern, grid=12, dim=8)
    assert features.shape == (12, 12, 8)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, pattern_features(pattern, grid=12, dim=8))


def test_brute_force_on_a_row_of_four():
    angle = np.deg2rad([0, 10, 50, 75])
    children, similarity = brute_force_merge(np.stack([np.cos(angle), np.sin(angle)], -1)[None])
    assert children.tolist() == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_allclose(similarity, np.cos(np.deg2rad([10, 25, 57.5])))


def test_result_has_the_keys_of_every_bench_and_the_reference():
    result = bench_cluster(grid=24, dim=64, pattern="structured", repeats=3, reference=True)
    assert result.keys() == {
        "name", "seconds_median", "cpu_seconds_median", "peak_mb", "reference_cpu_seconds", "ratio",
    }  # fmt: skip
    assert result["ratio"] > 1
