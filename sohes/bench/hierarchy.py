"""Seconds and memory of the hierarchy of one image's masks, compared with boolean masks."""

from __future__ import annotations

import numpy as np

from sohes.bench.cost import compared, cost_of
from sohes.bench.own_process import in_own_process
from sohes.masks import packed
from sohes.masks.forest import parents_by_coverage

THETA_COVER = 0.9


def nested_discs(count: int, size: int, seed: int = 0) -> np.ndarray:
    """(count, size, size) bool: ellipses of 1 to 60 % of the side, every other one inside an earlier one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    centres, radii = rng.random((count, 2)), rng.uniform(0.03, 0.3, (count, 2))
    for i in range(1, count, 2):
        outer = rng.integers(i)
        radii[i] = radii[outer] * rng.uniform(0.3, 0.6)
        centres[i] = centres[outer] + radii[outer] * rng.uniform(-0.3, 0.3, 2)
    masks_NHW = np.empty((count, size, size), bool)
    for mask, (cy, cx), (ry, rx) in zip(masks_NHW, centres, radii, strict=True):
        np.less(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2, 1, out=mask)
    return masks_NHW


def boolean_parents(masks_NHW: np.ndarray, *, theta_cover: float) -> np.ndarray:
    """(N,) parents, the plain way: the shared pixels of each pair are counted pair by pair.

    Numbers and ties as in `sohes.masks.forest`.
    """
    n = len(masks_NHW)
    area = np.array([np.count_nonzero(mask) for mask in masks_NHW])
    above = np.zeros((n, n), bool)  # [j, i]: j is an ancestor of i
    for i in range(n):
        for j in range(n):
            if area[i] < area[j]:
                shared = np.count_nonzero(masks_NHW[i] & masks_NHW[j])
                above[j, i] = area[i] > 0 and shared / area[i] >= theta_cover > shared / area[j]
    for k in range(n):
        above |= above[:, k, None] & above[k]
    parents = np.full(n, -1, np.int64)
    for i in range(n):
        candidates = np.flatnonzero(above[:, i])
        if len(candidates):
            parents[i] = min(candidates, key=lambda j: (area[j], j))
    return parents


def bench_hierarchy(
    *, masks: int = 100, size: int = 1024, repeats: int = 11, reference: bool = False
) -> dict[str, str | float]:
    """Coverage and forest of the masks of one image on one core; keys name, seconds_median, cpu_seconds_median,
    peak_mb, parents (masks that have one).

    reference: also run `boolean_parents` once; adds reference_cpu_seconds and ratio (reference over ours). peak_mb:
    growth of the process's peak memory beyond the masks.
    """
    return in_own_process(_measure, masks, size, repeats, reference)


def _measure(masks: int, size: int, repeats: int, reference: bool) -> dict[str, str | float]:
    _parents(nested_discs(2, 16))  # compiles
    masks_NHW = nested_discs(masks, size)
    cost, parents = cost_of(lambda: _parents(masks_NHW), repeats=repeats)
    found = int((parents >= 0).sum())
    result: dict[str, str | float] = {"name": f"hierarchy-{masks}x{size}x{size}", **cost.figures(), "parents": found}
    if reference:
        plain, expected = cost_of(lambda: boolean_parents(masks_NHW, theta_cover=THETA_COVER), repeats=1)
        assert np.array_equal(expected, parents)
        result |= compared(cost, plain)
    return result


def _parents(masks_NHW: np.ndarray) -> np.ndarray:
    packed_masks = packed.pack(masks_NHW, size=masks_NHW.shape[1:])
    return parents_by_coverage(packed.intersections(packed_masks), theta_cover=THETA_COVER)
