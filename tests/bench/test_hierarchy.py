from __future__ import annotations

import numpy as np

from sohes.bench.hierarchy import bench_hierarchy, boolean_parents, nested_discs


def test_discs_are_repeatable_and_nested():
    found = nested_discs(20, 64)
    np.testing.assert_array_equal(found, nested_discs(20, 64))
    assert (boolean_parents(found, theta_cover=0.9) >= 0).sum() >= 5


def test_plain_parents_of_three_bars():
    bars = np.zeros((3, 1, 40), bool)
    bars[0, 0, :40] = bars[1, 0, 5:25] = bars[2, 0, 10:14] = True
    assert boolean_parents(bars, theta_cover=0.9).tolist() == [-1, 0, 1]


def test_result_has_the_keys_of_every_bench_and_the_reference():
    result = bench_hierarchy(masks=12, size=64, repeats=1, reference=True)
    assert set(result) == {
        "name", "seconds_median", "cpu_seconds_median", "peak_mb", "parents", "reference_cpu_seconds", "ratio",
    }  # fmt: skip
    assert result["parents"] > 0
