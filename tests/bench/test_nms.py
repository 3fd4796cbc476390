from __future__ import annotations

import numpy as np

from sohes.bench.cluster import pattern_features
from sohes.bench.nms import NMS_IOU, THETA_MERGE, bench_nms, boolean_nms
from sohes.explore.merge.tree import merge_tree, select_regions


def test_the_plain_way_keeps_the_same_regions():
    tree = merge_tree(pattern_features("structured", grid=32, dim=16))
    kept = boolean_nms(tree, theta_merge=THETA_MERGE, nms_iou=NMS_IOU)
    assert len(kept) > 10
    np.testing.assert_array_equal(kept, select_regions(tree, theta_merge=THETA_MERGE, nms_iou=NMS_IOU))


def test_result_has_the_keys_of_every_bench_and_about_700_regions():
    result = bench_nms(repeats=3)
    assert result.keys() == {"name", "seconds_median", "cpu_seconds_median", "peak_mb", "regions"}
    assert 500 < result["regions"] < 1000
