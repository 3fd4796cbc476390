"""Seconds and memory of clustering one feature map, against the plain way to do it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sohes.bench.cost import compared, cost_of
from sohes.bench.own_process import in_own_process
from sohes.explore.merge.tree import merge_tree

Pattern = Literal["structured", "giant", "noise", "constant"]


def pattern_features(pattern: Pattern, *, grid: int, dim: int, seed: int = 0) -> np.ndarray:
    """(grid, grid, dim) float32 features as photographs may yield them.

    structured: entities of 200 patches on average and parts of 25, which thresholds of 0.6 and 0.4 tell apart, a slow
    drift and noise.
    giant: nine tenths are one entity with noise, a sky, with small ones in it.
    noise: one direction for the whole map under noise as strong; everything is as similar as everything else.
    constant: one and the same feature everywhere.
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
    for y, row in enumerate(features):  # row by row, or the map's making would take more memory than its clustering
        row /= 2
        row += entities[entity[y]] + parts[part[y]] + y / grid * drift[0] + np.arange(grid)[:, None] / grid * drift[1]
    return features


def _nearest(centres_2N: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """(grid, grid) index of the nearest centre of each cell of the unit square, and how far it is."""
    y, x = np.mgrid[:grid, :grid] / grid
    squared = np.full((grid, grid), np.inf)
    index = np.zeros((grid, grid), np.int64)
    for i, (centre_y, centre_x) in enumerate(centres_2N.T):
        distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
        index[distance < squared] = i
        squared = np.minimum(squared, distance)
    return index, np.sqrt(squared)


def brute_force_merge(features_hwC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Children (M, 2) and similarities (M,) of the merge tree, the plain way, in float64.

    Keeps the similarity of every edge in one table, scans all of it for each merge, and computes all similarities
    of the merged region again. Numbers and ties as in `sohes.explore.merge.tree.merge_tree`.
    """
    height, width, channels = features_hwC.shape
    n = height * width
    sums = features_hwC.reshape(n, channels).astype(np.float64)
    norm = np.linalg.norm(sums, axis=1)
    number = np.arange(n)
    patches = number.reshape(height, width)
    ends = np.concatenate(
        [
            np.stack([patches[:, :-1].ravel(), patches[:, 1:].ravel()], 1),
            np.stack([patches[:-1].ravel(), patches[1:].ravel()], 1),
        ]
    )
    edges: list[dict[int, int]] = [{} for _ in range(n)]  # of each region: neighbour -> edge
    for e, (a, b) in enumerate(ends.tolist()):
        edges[a][b] = edges[b][a] = e

    def cosines(a: int, others: list[int]) -> np.ndarray:
        scale = norm[a] * norm[others]
        value = np.divide(sums[others] @ sums[a], scale, out=np.zeros(len(others)), where=scale > 0)
        return np.where(value >= 1 - 2.0**-18, 1.0, value)

    similarity = np.empty(len(ends))
    for a in range(n):
        later = [b for b in edges[a] if b > a]
        similarity[[edges[a][b] for b in later]] = cosines(a, later)
    children, merged_at = np.empty((n - 1, 2), np.int64), np.empty(n - 1)
    for m in range(n - 1):
        merged_at[m] = similarity.max()
        ties = np.flatnonzero(similarity == merged_at[m])
        pairs = np.sort(number[ends[ties]], axis=1)
        first = np.lexsort((pairs[:, 1], pairs[:, 0]))[0]
        children[m] = pairs[first]
        a, b = ends[ties[first]].tolist()
        if len(edges[b]) > len(edges[a]):
            a, b = b, a
        similarity[edges[a].pop(b)] = -np.inf
        del edges[b][a]
        for k, e in edges[b].items():
            del edges[k][b]
            if k in edges[a]:
                similarity[e] = -np.inf
            else:
                edges[a][k] = edges[k][a] = e
                ends[e] = a, k
        sums[a] += sums[b]
        norm[a], number[a] = np.linalg.norm(sums[a]), n + m
        similarity[list(edges[a].values())] = cosines(a, list(edges[a]))
    return children, merged_at


def bench_cluster(
    *,
    grid: int = 128,
    dim: int = 768,
    pattern: Pattern = "structured",
    repeats: int = 5,
    reference: bool = False,
) -> dict[str, str | float]:
    """The merge tree of one map on one core; keys name, seconds_median, cpu_seconds_median, peak_mb.

    reference: also `brute_force_merge`, once; adds reference_cpu_seconds and ratio (reference over ours). peak_mb: by
    how much the memory of the process, one of its own, grows over the map itself.
    """
    return in_own_process(_measure, grid, dim, pattern, repeats, reference)


def _measure(grid: int, dim: int, pattern: Pattern, repeats: int, reference: bool) -> dict[str, str | float]:
    merge_tree(np.ones((4, 4, 8), np.float32))  # compiles what is to be compiled
    features = pattern_features(pattern, grid=grid, dim=dim)
    cost, _ = cost_of(lambda: merge_tree(features), repeats=repeats)
    result: dict[str, str | float] = {"name": f"cluster-{pattern}-{grid}x{grid}x{dim}", **cost.figures()}
    if reference:
        plain, _ = cost_of(lambda: brute_force_merge(features), repeats=1)
        result |= compared(cost, plain)
    return result
