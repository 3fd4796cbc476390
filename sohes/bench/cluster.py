"""Seconds and memory of merging one feature map, compared with the reference merge."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sohes.bench.cost import compared, cost_of
from sohes.bench.own_process import in_own_process
from sohes.explore.merge.reference import reference_merge
from sohes.explore.merge.tree import merge_tree

Pattern = Literal["structured", "giant", "noise", "constant"]


def pattern_features(pattern: Pattern, *, grid: int, dim: int, seed: int = 0) -> np.ndarray:
    """(grid, grid, dim) float32 features similar to those of photographs.

    structured: entities of 200 patches on average with parts of 25, which thresholds of 0.6 and 0.4 separate, plus a
    slow drift and noise.
    giant: one noisy entity, a sky, covers nine tenths, with small entities in it.
    noise: one direction everywhere plus noise of the same strength, so all patches are equally similar.
    constant: the same feature everywhere.
    """
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((grid, grid, dim), np.float32)
    base = rng.normal(size=dim)
    if pattern == "constant":
        features[:] = base
        return features
    if pattern == "noise":
        features += base.astype(np.float32)
        return features
    count = 60 if pattern == "giant" else max(2, grid * grid // 200)
    entities, entity, distance = rng.normal(size=(count, dim)), *_nearest(rng.random((2, count)), grid)
    if pattern == "giant":
        inside = distance < rng.random(count)[entity] / 16
        entities = np.concatenate([entities, base[None]])
        entity[~inside] = count
        parts, part = np.zeros((1, dim)), np.zeros((grid, grid), np.int64)
        drift = np.zeros((2, dim))
    else:
        parts = rng.normal(size=(8 * count, dim))
        part, _ = _nearest(rng.random((2, 8 * count)), grid)
        drift = rng.normal(size=(2, dim)) / 3
        entities = 0.8 * entities + base / 2
    for y, row in enumerate(features):  # row by row, otherwise this would need more memory than the merge
        row /= 2
        row += entities[entity[y]] + parts[part[y]] + y / grid * drift[0] + np.arange(grid)[:, None] / grid * drift[1]
    return features


def _nearest(centres_2N: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """(grid, grid) index of the nearest centre to each cell of the unit square, and its distance."""
    y, x = np.mgrid[:grid, :grid] / grid
    squared = np.full((grid, grid), np.inf)
    index = np.zeros((grid, grid), np.int64)
    for i, (centre_y, centre_x) in enumerate(centres_2N.T):
        distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
        index[distance < squared] = i
        squared = np.minimum(squared, distance)
    return index, np.sqrt(squared)


def bench_cluster(
    *,
    grid: int = 128,
    dim: int = 768,
    pattern: Pattern = "structured",
    repeats: int = 5,
    reference: bool = False,
) -> dict[str, str | float]:
    """The merge tree of one map on one core; keys name, seconds_median, cpu_seconds_median, peak_mb.

    reference: also run `reference_merge` once; adds reference_cpu_seconds and ratio (reference over ours). peak_mb:
    growth of the process's peak memory beyond the map.
    """
    return in_own_process(_measure, grid, dim, pattern, repeats, reference)


def _measure(grid: int, dim: int, pattern: Pattern, repeats: int, reference: bool) -> dict[str, str | float]:
    merge_tree(np.ones((4, 4, 8), np.float32))  # compiles
    features = pattern_features(pattern, grid=grid, dim=dim)
    cost, _ = cost_of(lambda: merge_tree(features), repeats=repeats)
    result: dict[str, str | float] = {"name": f"cluster-{pattern}-{grid}x{grid}x{dim}", **cost.figures()}
    if reference:
        plain, _ = cost_of(lambda: reference_merge(features), repeats=1)
        result |= compared(cost, plain)
    return result
