"""The merge log of a feature map: which two regions merge, in which order, at which similarity (paper 3.1 step 1).

Every step takes the pair with the highest cosine, so the loop below is a queue of regions, each standing for its best
edge. What makes it fast without giving up exactness:

- **Sums, not means.** A region's row S is the sum of its patches; the cosine does not see the area, and a merge is one
  addition. Rows are copied on the first merge only.
- **One owner an edge.** The end with more neighbours keeps the edge in a heap of its own. A merge then touches the
  edges of the absorbed region and those few edges of the absorbing one that a still larger neighbour keeps.
- **A region of many edges (a sky) does not look at them again when it moves.** A merge turns its row by an angle that
  is known without looking at a row, and no edge can gain more than that angle. So an edge that was last looked at when
  its angle was t, and since when the row has turned by d in all, has a cosine of at most cos(t - d). The order of
  these bounds does not change while the row turns; only edges whose bound reaches the best exact cosine are looked at.

What a region and an edge are made of is in `sohes.explore.merge.state`.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numba
import numpy as np

from sohes.explore.merge.simd import BLOCK, add, dot, prefetch
from sohes.explore.merge.state import (
    EDGE,
    FOREIGN,
    OWNED,
    REGION,
    TOTAL,
    Graph,
    append,
    degree,
    drop,
    heap_down,
    heap_up,
    inner,
    lower_number,
    queue_down,
    queue_remove,
    queue_up,
)

ONE = 1 - 2.0**-18  # a cosine from here on counts as 1: the rest is rounding, and ties must fall by number
LAZY_FROM = 12  # edges in the heap; below, looking at all of them after each merge is cheaper than bounds
FAST_TURN = 0.2  # radians in one merge, from which on the bounds say nothing
POOL_PER_PATCH = 17  # places for the lists of edges; `_make_room` says why this is enough


def merge_log(features_nC: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Children (M, 2) int32 and similarities (M,) float64 of the M = n - 1 merges of n patches in rows of `width`.

    features_nC: float32. Numbers and ties as in `sohes.explore.merge.tree.merge_tree`. ValueError for NaN or infinity.
    """
    n, channels = features_nC.shape
    padded = -(-channels // BLOCK) * BLOCK
    if padded == channels:
        rows = np.ascontiguousarray(features_nC)
    else:
        rows = np.zeros((n, padded), np.float32)
        rows[:, :channels] = features_nC
    norm = _norms(rows)
    if not (norm.max() < 2.0**40 and norm.max() > 2.0**-20):
        rows, norm = _rescaled(rows)
    more_rows = np.empty((n // 2 + 1, padded), np.float32)  # of merged regions, touched only where used
    return _merge_all(rows, norm, more_rows, np.empty(POOL_PER_PATCH * n, np.int32), width)


def _rescaled(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same directions at lengths whose squares neither overflow nor vanish."""
    if not np.isfinite(rows).all():
        raise ValueError(f"features must be finite (got {np.sum(~np.isfinite(rows))} NaN or infinite values)")
    largest = np.abs(rows).max()
    if largest > 0:
        rows = np.ldexp(rows, -np.frexp(largest)[1])
    return rows, _norms(rows)


def _compile(helpers: str):
    """The functions that numba keeps on disk, until this file or `helpers` changes."""

    @numba.njit(cache=True)
    def norms(rows):
        _ = helpers
        n, channels = rows.shape
        norm = np.empty(n)
        for i in range(n):
            address = rows.ctypes.data + i * channels * 4
            norm[i] = math.sqrt(np.float64(dot(address, address, channels)))  # type: ignore[call-arg]
        return norm

    @numba.njit(cache=True)
    def merge_all(rows, norm, more_rows, pool, width):
        _ = helpers
        g = _graph(rows, norm, more_rows, pool, width)
        n = len(norm)
        children, similarity = np.empty((n - 1, 2), np.int32), np.empty(n - 1)
        touched, marks = np.empty(2 * n, np.int64), np.full(n, -1)
        for m in range(n - 1):
            while g.regions[g.queue[0]].best < 0:
                _resolve(g, g.queue[0])
            top = g.regions[g.queue[0]]
            children[m, 0], children[m, 1], similarity[m] = top.pair[0], top.pair[1], top.value
            _merge(g, top.best, n + m, touched, marks)
        return children, similarity

    return norms, merge_all


# Of the files that a function is made of, numba's cache looks at its own only; a variable from outside it does see.
_HELPERS = [Path(__file__).with_name(name).read_bytes() for name in ("state.py", "simd.py")]
_norms, _merge_all = _compile(hashlib.sha256(b"".join(_HELPERS)).hexdigest())


@inner
def _graph(rows, norm, more_rows, pool, width):
    """The grid: every patch a region that keeps its edges to the right and downwards."""
    n, channels = rows.shape
    edges = 2 * n - width - n // width
    g = Graph(
        np.zeros(n, REGION),
        np.empty(edges, EDGE),
        pool,
        np.empty(n, np.int32),
        more_rows.ctypes.data + np.arange(len(more_rows) - 1, -1, -1) * channels * 4,
        np.empty(1, TOTAL),
    )
    total = g.total[0]
    total.queue, total.pool, total.free = n, 8 * n, len(more_rows)
    total.channels, total.slack = channels, (channels / BLOCK + 10) * 2.0**-22
    for r in range(n):
        region = g.regions[r]
        region.address = rows.ctypes.data + r * channels * 4
        region.norm = norm[r]
        region.value = -3
        region.number = region.place = g.queue[r] = r
        for kind in range(2):
            region.start[kind] = 4 * (2 * r + kind)
            region.room[kind] = 4
    e = 0
    for r in range(n):
        if (r + 1) % width:
            _new_edge(g, e, r, r + 1)
            e += 1
        if r + width < n:
            _new_edge(g, e, r, r + width)
            e += 1
    for r in range(n):
        _refresh(g, r)
    return g


@inner
def _new_edge(g, e, owner, other):
    edge = g.edges[e]
    edge.ends[OWNED], edge.ends[FOREIGN] = owner, other
    _look(g, e)
    append(g, FOREIGN, other, e)
    heap_up(g, owner, append(g, OWNED, owner, e))


@inner
def _look(g, e):
    """Compute the cosine of edge e and its key; the rounding is the same whichever end owns it."""
    edge = g.edges[e]
    owner, other = g.regions[edge.ends[OWNED]], g.regions[edge.ends[FOREIGN]]
    scale = owner.norm * other.norm
    cosine = dot(owner.address, other.address, g.total[0].channels) / scale if scale > 0 else 0.0  # type: ignore[call-arg]
    edge.cosine = 1.0 if cosine >= ONE else cosine
    edge.seen = owner.number
    edge.key = edge.cosine
    if owner.lazy:
        edge.key = -(math.acos(max(-1.0, min(1.0, cosine + g.total[0].slack))) + owner.turned) if cosine < ONE else 1.0


# ---------------------------------------------------------------- one merge


@inner
def _merge(g, e, number, touched, marks):
    """Merge the ends of edge e into one region, a: the end of higher degree, so that few edges move."""
    a, b = g.edges[e].ends[OWNED], g.edges[e].ends[FOREIGN]
    if degree(g, b) > degree(g, a):
        a, b = b, a
    drop(g, OWNED, e)
    drop(g, FOREIGN, e)
    turn = _join_rows(g, a, b, g.edges[e].cosine)
    old_owned = g.regions[a].length[OWNED]
    count = _move_edges(g, a, b, number, touched, marks)
    g.regions[a].number = number  # from here on the heaps of owners are out of order where they hold an edge to a
    count = _tell_owners(g, a, touched, count)
    _reorder(g, a, old_owned, turn)
    queue_remove(g, b)
    _refresh(g, a)
    for i in range(count):
        _refresh(g, touched[i])


@inner
def _move_edges(g, a, b, number, touched, marks):
    """Edges of b become edges of a, or go where a has one to the same neighbour; returns how many owners it touched."""
    count = 0
    mark = degree(g, a) <= 4 * degree(g, b)
    if mark:
        for kind in range(2):
            for i in range(g.regions[a].length[kind]):
                marks[g.edges[g.pool[g.regions[a].start[kind] + i]].ends[1 - kind]] = number
    for kind in range(2):
        for i in range(g.regions[b].length[kind]):
            e = g.pool[g.regions[b].start[kind] + i]
            k = g.edges[e].ends[1 - kind]
            if marks[k] == number if mark else _adjacent(g, k, a):
                drop(g, 1 - kind, e)
                if kind == FOREIGN:
                    touched[count] = k
                    count += 1
            else:
                g.edges[e].ends[kind] = a
                append(g, kind, a, e)
        g.regions[b].length[kind] = g.regions[b].room[kind] = 0
    return count


@inner
def _adjacent(g, k, a):
    if degree(g, a) < degree(g, k):
        k, a = a, k
    for kind in range(2):
        for i in range(g.regions[k].length[kind]):
            if g.edges[g.pool[g.regions[k].start[kind] + i]].ends[1 - kind] == a:
                return True
    return False


@inner
def _tell_owners(g, a, touched, count):
    """An edge of `a` that a larger neighbour keeps gets a new key there; one that a smaller one keeps moves to a."""
    size = degree(g, a)
    for i in range(g.regions[a].length[FOREIGN] - 1, -1, -1):
        e = g.pool[g.regions[a].start[FOREIGN] + i]
        edge = g.edges[e]
        k = edge.ends[OWNED]
        if degree(g, k) <= size:
            drop(g, OWNED, e)
            drop(g, FOREIGN, e)
            edge.ends[OWNED], edge.ends[FOREIGN] = a, k
            append(g, FOREIGN, k, e)
            append(g, OWNED, a, e)
        else:
            _look(g, e)
            heap_down(g, k, heap_up(g, k, edge.at[OWNED]))
        touched[count] = k
        count += 1
    return count


@inner
def _join_rows(g, a, b, cosine):
    """Make the sum of rows a and b the row of a, and return by how many radians it turned at most.

    The patches' rows, which are the caller's, stay as they are.
    """
    n = len(g.regions)
    total, x, y = g.total[0], g.regions[a], g.regions[b]
    if x.number >= n:
        out = x.address
        if y.number >= n:
            g.free[total.free] = y.address
            total.free += 1
    elif y.number >= n:
        out = y.address
    else:
        total.free -= 1
        out = g.free[total.free]
    norm = math.sqrt(np.float64(add(out, x.address, y.address, total.channels)))  # type: ignore[call-arg]
    along = max(0.0, abs(cosine) - total.slack)
    across = y.norm * math.sqrt(1 - along * along)
    turn = math.pi if norm * FAST_TURN <= across or x.norm + y.norm * cosine <= 0 else math.asin(across / norm)
    x.norm, x.address = norm, out
    return turn + 1e-6


@inner
def _reorder(g, a, old_owned, turn):
    """Give the heap of a region whose row has turned, and whose edges from `old_owned` on are new, its order back."""
    region = g.regions[a]
    length = region.length[OWNED]
    if region.lazy and turn < FAST_TURN and length >= LAZY_FROM:
        region.turned += turn
        for i in range(old_owned, length):
            _look(g, g.pool[region.start[OWNED] + i])
            heap_up(g, a, i)
        return
    region.lazy, region.turned = length >= LAZY_FROM, 0.0
    for i in range(length):
        _look(g, g.pool[region.start[OWNED] + i])
    for i in range(length // 2 - 1, -1, -1):
        heap_down(g, a, i)


# ---------------------------------------------------------------- bounds


@inner
def _ceiling(g, r, e):
    """No edge of r from e on down its heap has a higher cosine."""
    region, key = g.regions[r], g.edges[e].key
    if not region.lazy:
        return key
    ceiling = math.cos(max(0.0, -key - region.turned)) + g.total[0].slack
    return 1.0 if ceiling >= ONE else ceiling


@inner
def _resolve(g, r):
    """Region r is first in the queue by a bound: find its best edge, or a bound below the queue's second."""
    rival = -2.0
    for i in range(1, min(3, g.total[0].queue)):
        rival = max(rival, g.regions[g.queue[i]].value)
    region = g.regions[r]
    start = region.start[OWNED]
    while g.edges[g.pool[start]].seen != region.number:
        ceiling = _ceiling(g, r, g.pool[start])
        if ceiling < rival:
            _set(g, r, ceiling, np.int32(-1))
            return
        for i in range(1, min(3, region.length[OWNED])):
            edge = g.edges[g.pool[start + i]]
            if edge.seen != region.number:
                prefetch(g.regions[edge.ends[FOREIGN]].address, g.total[0].channels)  # type: ignore[call-arg]
        _look(g, g.pool[start])
        heap_down(g, r, 0)
    # Bounds have some slack, so an edge below may still be the better one, or an equal one of a lower number.
    best = g.pool[start]
    stack = np.empty(64, np.int64)  # a depth-first walk of a binary heap needs one place a level
    stack[0], stack[1] = 1, 2
    depth = 2
    while depth:
        depth -= 1
        i = stack[depth]
        if i >= region.length[OWNED]:
            continue
        e = g.pool[start + i]
        ceiling = _ceiling(g, r, e)
        if ceiling < g.edges[best].cosine:
            continue
        if ceiling > g.edges[best].cosine or lower_number(g, e, best):
            edge = g.edges[e]
            if edge.seen != region.number:
                key = edge.key  # stays as it is, so that the heap keeps its order under the walk
                _look(g, e)
                edge.key = key
            if edge.cosine > g.edges[best].cosine or (edge.cosine == g.edges[best].cosine and lower_number(g, e, best)):
                best = e
        stack[depth], stack[depth + 1] = 2 * i + 1, 2 * i + 2
        depth += 2
    _set(g, r, g.edges[best].cosine, best)


@inner
def _refresh(g, r):
    """Put region r at its place in the queue after a change of its heap."""
    region = g.regions[r]
    if region.length[OWNED] == 0:
        _set(g, r, -2.0, np.int32(-1))
    else:
        e = g.pool[region.start[OWNED]]
        _set(g, r, _ceiling(g, r, e), np.int32(-1) if region.lazy else e)


@inner
def _set(g, r, value, e):
    region = g.regions[r]
    lower = higher = np.int32(-1)
    if e >= 0:
        x, y = g.regions[g.edges[e].ends[0]].number, g.regions[g.edges[e].ends[1]].number
        lower, higher = min(x, y), max(x, y)
    region.best = e
    if value != region.value or lower != region.pair[0] or higher != region.pair[1]:
        region.value = value
        region.pair[0], region.pair[1] = lower, higher
        queue_down(g, queue_up(g, region.place))
