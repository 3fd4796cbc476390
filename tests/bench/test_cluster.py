from __future__ import annotations

import numpy as np
import pytest

from sohes.bench.cluster import bench_cluster, pattern_features


@pytest.mark.parametrize("pattern", ["structured", "giant", "noise", "constant"])
def test_patterns_are_finite_and_repeatable(pattern):
    features = pattern_features(pattern, grid=12, dim=8)
    assert features.shape == (12, 12, 8)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, pattern_features(pattern, grid=12, dim=8))


def test_result_has_the_keys_of_every_bench_and_the_reference():
    result = bench_cluster(grid=24, dim=64, pattern="structured", repeats=3, reference=True)
    assert result.keys() == {
        "name", "seconds_median", "cpu_seconds_median", "peak_mb", "reference_cpu_seconds", "ratio",
    }  # fmt: skip
    assert result["ratio"] > 1
