"""The merges of a feature map, fast: which two regions merge, in which order, at which similarity (paper 3.1 step 1).

`sohes.explore.merge.reference` says the same in twenty lines, and `sohes.explore.merge.graph` what a region and an edge
are. Two ideas make it fast without giving up exactness:

- **The end with more neighbours keeps the edge.** A merge then computes few similarities: those of the smaller
  region's edges, and of the larger one's few edges that a still larger neighbour keeps.
- **The other edges have bounds.** A merge turns the larger region's feature by an angle that follows from the two norms
  and the similarity, and no similarity can gain more than that angle allows: an edge at angle t when it was last
  computed, since when its keeper has turned by d in all, has a similarity of at most cos(t - d). A region in the queue
  stands for such a bound until it comes first; only then are its edges computed, and only those whose bound reaches
  the best of them. A sky of thousands of neighbours computes some fifty of them in a merge.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numba
import numpy as np

from sohes.explore.merge.dot import LANES, dot
from sohes.explore.merge.graph import (
    EDGE,
    KEEPERS,
    KEPT,
    NONE,
    REGION,
    Graph,
    append,
    are_adjacent,
    degree,
    feature,
    find,
    inner,
    keep,
    places,
    pop,
    remove,
)
from sohes.explore.merge.queue import first, set_best, set_bound
from sohes.work.compiled import compiled

ONE = 1 - 2.0**-18  # a similarity from here on counts as 1: the rest is rounding, and ties must fall by number
PLACES_PER_PATCH = 17  # for the lists of edges; `graph._make_room` says why this is enough


def merge_log(features_nC: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Children (M, 2) int32 and similarities (M,) float64 of the M = n - 1 merges of n patches in rows of `width`.

    features_nC: float32. Numbers and ties as in `sohes.explore.merge.tree.merge_tree`. ValueError for NaN or infinity.
    """
    n, channels = features_nC.shape
    patches = np.require(features_nC, np.float32, ["C", "W"])  # one type of array, so that it is compiled once
    if channels % LANES:
        patches = np.pad(patches, ((0, 0), (0, -channels % LANES)))
    norms = _norms(patches)
    if not (norms.max() < 2.0**40 and norms.max() > 2.0**-20):
        patches, norms = _rescaled(patches)
    sums = np.empty((n // 2, patches.shape[1]), np.float32)  # memory is taken where it is written
    return _merge_all(patches, norms, sums, width, PLACES_PER_PATCH * n)


def _rescaled(patches_nC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same directions at lengths whose squares neither overflow nor vanish, and their norms."""
    if not np.isfinite(patches_nC).all():
        raise ValueError(f"features must be finite (got {np.sum(~np.isfinite(patches_nC))} NaN or infinite values)")
    largest = np.abs(patches_nC).max()
    if largest > 0:
        patches_nC = np.ldexp(patches_nC, -np.frexp(largest)[1])
    return patches_nC, _norms(patches_nC)


def _compile(sources: str):
    """The two functions that numba keeps on disk until `sources` changes."""

    @compiled
    def norms(patches):
        _ = sources
        norm = np.empty(len(patches))
        for r in range(len(patches)):
            norm[r] = math.sqrt(np.float64(dot(patches, patches, r, r)))  # type: ignore[call-arg]
        return norm

    @compiled
    def merge_all(patches, norms, sums, width, room):
        _ = sources
        n = len(patches)
        children, similarity = np.empty((n - 1, 2), np.int32), np.empty(n - 1)
        g = _grid(patches, norms, sums, width, room)
        for m in range(n - 1):
            while g.regions[first(g)].at == NONE:
                _find_best(g, first(g))
            best = g.regions[first(g)]
            children[m, 0], children[m, 1], similarity[m] = best.pair[0], best.pair[1], best.best
            _merge(g, first(g), best.start[KEPT] + best.at, n + m)
        return children, similarity

    return norms, merge_all


# Numba's cache notices changes of this file and of a function's closure, but not of the other files it is made from.
_SOURCES = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
_norms, _merge_all = _compile(hashlib.sha256(b"".join(_SOURCES)).hexdigest())


@inner
def _grid(patches, norms, sums, width, room):
    """Every patch a region that keeps its edges to the right and downwards."""
    n, channels = patches.shape
    leaves = 1
    while leaves < n:
        leaves *= 2
    g = Graph(
        patches,
        sums,
        np.zeros(leaves, REGION),
        np.empty(room, EDGE),
        np.empty(room),
        np.zeros(2 * leaves, np.int32),
        np.array([8 * n, 0]),
        (channels / LANES + 10) * 2.0**-22,
    )
    for i in range(2 * leaves - 1, 0, -1):
        g.queue[i] = i - leaves if i >= leaves else g.queue[2 * i]
    for r in range(leaves):
        region = g.regions[r]
        region.best, region.lowest = -3, np.inf  # -3: lower than a region without edges
        region.at = region.pair[0] = region.pair[1] = NONE
        region.number = region.row = r
        if r < n:
            region.norm = norms[r]
            for kind in range(2):
                region.start[kind], region.room[kind] = 8 * r + 4 * kind, 4
    for r in range(n):
        if (r + 1) % width:
            _compute(g, r, keep(g, r, r + 1))
        if r + width < n:
            _compute(g, r, keep(g, r, r + width))
        _refresh(g, r)
    return g


# ---------------------------------------------------------------- one merge


@inner
def _merge(g, a, i, number):
    """Merge the ends of the edge at place i, which region a keeps, into region `number`."""
    b, similarity = g.edges[i].other, g.edges[i].similarity
    remove(g, KEPT, a, i)
    remove(g, KEEPERS, b, find(g, KEEPERS, b, a))
    if degree(g, b) > degree(g, a):  # a becomes the merged region, so that few edges change hands
        a, b = b, a
    _join_features(g, a, b, similarity)
    g.regions[a].number = number
    while g.regions[b].length[KEPT]:
        other = pop(g, KEPT, b)
        remove(g, KEEPERS, other, find(g, KEEPERS, other, b))
        if not are_adjacent(g, a, other):
            _compute(g, a, keep(g, a, other))
    while g.regions[b].length[KEEPERS]:
        keeper = pop(g, KEEPERS, b)
        if are_adjacent(g, a, keeper):
            remove(g, KEPT, keeper, find(g, KEPT, keeper, b))
            _refresh(g, keeper)
        else:
            g.edges[find(g, KEPT, keeper, b)].other = a
            append(g, KEEPERS, a, keeper)
    for kind in range(2):
        g.regions[b].room[kind] = 0
    for i in range(g.regions[a].length[KEEPERS] - 1, -1, -1):
        place = g.regions[a].start[KEEPERS] + i
        keeper = g.edges[place].other
        if degree(g, keeper) > degree(g, a):
            _compute(g, keeper, find(g, KEPT, keeper, a))
        else:
            remove(g, KEPT, keeper, find(g, KEPT, keeper, a))
            remove(g, KEEPERS, a, place)
            _compute(g, a, keep(g, a, keeper))
        _refresh(g, keeper)
    _refresh(g, a)
    _refresh(g, b)


@inner
def _join_features(g, a, b, similarity):
    """Make the sum of both features that of region a, and add to `turned` by how many radians it turns at most."""
    n, x, y = len(g.patches), g.regions[a], g.regions[b]
    one, two = feature(g, a), feature(g, b)
    if x.row < n:
        x.row = y.row
    if x.row < n:  # both are patches, whose features are the caller's; n patches make at most n / 2 such pairs
        x.row = n + g.used[1]
        g.used[1] += 1
    total = feature(g, a)
    for i in range(len(total)):
        total[i] = one[i] + two[i]
    norm = math.sqrt(np.float64(dot(g.patches, g.sums, x.row, x.row)))  # type: ignore[call-arg]
    along = max(0.0, abs(similarity) - g.slack)
    across = y.norm * math.sqrt(1 - along * along)
    is_far = norm <= across or x.norm + y.norm * similarity <= 0
    x.turned += math.pi if is_far else math.asin(across / norm) + 1e-6
    x.norm = norm


# ---------------------------------------------------------------- similarities and their bounds


@inner
def _compute(g, r, i):
    """Compute the similarity of the edge at place i, which region r keeps, and the edge's key."""
    edge, region = g.edges[i], g.regions[r]
    other = g.regions[edge.other]
    scale = region.norm * other.norm
    cosine = dot(g.patches, g.sums, region.row, other.row) / scale if scale > 0 else 0.0  # type: ignore[call-arg]
    edge.similarity = 1.0 if cosine >= ONE else cosine
    edge.seen = region.number
    g.keys[i] = math.acos(max(-1.0, min(1.0, cosine + g.slack))) + region.turned
    region.lowest = min(region.lowest, g.keys[i])


@inner
def _refresh(g, r):
    """Put region r, whose edges have changed, at its place in the queue: as the bound of all its edges."""
    region = g.regions[r]
    if region.length[KEPT] == 0:
        set_bound(g, r, -2.0)
    else:
        bound = math.cos(max(0.0, region.lowest - region.turned)) + g.slack
        set_bound(g, r, 1.0 if bound >= ONE else bound)


@inner
def _find_best(g, r):
    """Find the best edge of region r, which is first in the queue by a bound; or lower the bound and leave it there."""
    region = g.regions[r]
    bound = region.best
    best = region.start[KEPT]
    region.lowest = _lowest(g.keys[best : best + region.length[KEPT]])
    _refresh(g, r)
    if region.best < bound and first(g) != r:
        return
    while g.keys[best] > region.lowest:
        best += 1
    if g.edges[best].seen != region.number:
        _compute(g, r, best)
    reach = _key_of(g, r, g.edges[best].similarity)
    for i in places(g, KEPT, r):
        if g.keys[i] <= reach:
            if g.edges[i].seen != region.number:
                _compute(g, r, i)
            if _is_better(g, g.edges[i], g.edges[best]):
                best = i
                reach = _key_of(g, r, g.edges[best].similarity)
    set_best(g, r, best)


@numba.njit(fastmath={"nnan", "nsz"})
def _lowest(keys):
    low = keys[0]
    for key in keys:
        low = min(low, key)
    return low


@inner
def _key_of(g, r, similarity):
    """Edges of region r with a higher key than this have a lower similarity."""
    return g.regions[r].turned + math.acos(max(-1.0, min(ONE, similarity) - g.slack)) + 1e-9


@inner
def _is_better(g, x, y):
    if x.similarity != y.similarity:
        return x.similarity > y.similarity
    return g.regions[x.other].number < g.regions[y.other].number
