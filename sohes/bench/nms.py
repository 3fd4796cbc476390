"""Seconds and memory of selecting the regions of one merge tree, compared with NMS over boolean masks."""

from __future__ import annotations

import numpy as np

from sohes.bench.cluster import pattern_features
from sohes.bench.cost import compared, cost_of
from sohes.bench.own_process import in_own_process
from sohes.explore.merge.tree import MergeTree, merge_tree, region_masks, regions_at_thresholds, select_regions

THETA_MERGE, NMS_IOU = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), 0.9


def boolean_nms(tree: MergeTree, *, theta_merge: tuple[float, ...], nms_iou: float) -> np.ndarray:
    """`select_regions` the plain way: a mask for every recorded region, and the IoU of every pair.

    Greedy: the largest mask first, ties by node; a mask is dropped if its IoU with a kept one exceeds `nms_iou`.
    """
    nodes = np.unique(np.concatenate(regions_at_thresholds(tree, theta_merge)))
    masks_Nn = region_masks(tree, nodes).reshape(len(nodes), -1)
    area = np.count_nonzero(masks_Nn, axis=1)
    kept: list[int] = []
    for i in np.lexsort((nodes, -area)):
        if area[i] < 2:
            continue
        shared = np.count_nonzero(masks_Nn[kept] & masks_Nn[i], axis=1)
        if not kept or (shared / (area[kept] + area[i] - shared)).max() <= nms_iou:
            kept.append(int(i))
    return nodes[kept]


def bench_nms(*, repeats: int = 51, reference: bool = False) -> dict[str, str | float]:
    """Levels and NMS of a 128 x 128 map of about 700 recorded regions; keys name, seconds_median,
    cpu_seconds_median, peak_mb, regions.

    reference: also run `boolean_nms` once; adds reference_cpu_seconds and ratio (reference over ours). peak_mb: growth
    of the process's peak memory beyond the tree.
    """
    return in_own_process(_measure, repeats, reference)


def _measure(repeats: int, reference: bool) -> dict[str, str | float]:
    tree = merge_tree(pattern_features("structured", grid=128, dim=64))
    recorded = select_regions(tree, theta_merge=THETA_MERGE, nms_iou=1)  # compiles
    cost, _ = cost_of(lambda: select_regions(tree, theta_merge=THETA_MERGE, nms_iou=NMS_IOU), repeats=repeats)
    result: dict[str, str | float] = {"name": "nms", **cost.figures(6), "regions": len(recorded)}
    if reference:
        plain, _ = cost_of(lambda: boolean_nms(tree, theta_merge=THETA_MERGE, nms_iou=NMS_IOU), repeats=1)
        result |= compared(cost, plain)
    return result
