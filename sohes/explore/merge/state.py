"""The state of a running merge: regions, edges, and the heaps that order them (see `sohes.explore.merge.kernel`).

A region goes by its slot, the patch that it grew from; `number` is the slot's node in the tree. An edge lies in two
lists: its owner's, which is a heap, and one of its other end.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

OWNED, FOREIGN = 0, 1  # the two lists of edges of a region: its heap, and what its neighbours keep

# Functions that only compiled ones call; wrappers for Python would take longer to compile than they do.
inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]

REGION = np.dtype(
    [
        ("address", "i8"),  # of the row
        ("norm", "f8"),
        ("turned", "f8"),  # radians in all since the region became lazy
        ("value", "f8"),  # cosine of the best edge, or an upper bound
        ("best", "i4"),  # the best edge; -1 for a bound
        ("pair", "i4", 2),  # numbers of the best edge's ends; (-1, -1) for a bound, so that it is resolved first
        ("place", "i4"),  # in the queue
        ("number", "i4"),  # node of the tree
        ("lazy", "i4"),
        ("start", "i4", 2),  # of the two lists of edges in the pool
        ("length", "i4", 2),
        ("room", "i4", 2),
    ],
    align=True,
)
EDGE = np.dtype(
    [
        ("key", "f8"),  # a lazy owner's: -(angle + turned) at the last look; else the cosine
        ("cosine", "f8"),  # of the two rows ...
        ("seen", "i4"),  # ... when this was the owner's number
        ("ends", "i4", 2),  # owner and other
        ("at", "i4", 2),  # position in the owner's heap and in the other's list
    ],
    align=True,
)
TOTAL = np.dtype([("queue", "i8"), ("pool", "i8"), ("free", "i8"), ("channels", "i8"), ("slack", "f8")])


class Graph(NamedTuple):
    regions: np.ndarray
    edges: np.ndarray
    pool: np.ndarray  # all lists of edges
    queue: np.ndarray  # a heap of regions by value
    free: np.ndarray  # a stack of addresses of unused rows
    total: np.ndarray  # how much of queue, pool and free is in use, and constants


@inner
def degree(g, r):
    return g.regions[r].length[OWNED] + g.regions[r].length[FOREIGN]


# ---------------------------------------------------------------- the queue of regions, a binary heap


@inner
def _queue_before(g, x, y):
    if g.regions[x].value != g.regions[y].value:
        return g.regions[x].value > g.regions[y].value
    if g.regions[x].pair[0] != g.regions[y].pair[0]:
        return g.regions[x].pair[0] < g.regions[y].pair[0]
    return g.regions[x].pair[1] < g.regions[y].pair[1]


@inner
def queue_up(g, i):
    r = g.queue[i]
    while i > 0:
        above = g.queue[(i - 1) // 2]
        if not _queue_before(g, r, above):
            break
        g.queue[i], g.regions[above].place = above, i
        i = (i - 1) // 2
    g.queue[i], g.regions[r].place = r, i
    return i


@inner
def queue_down(g, i):
    r = g.queue[i]
    while True:
        child = 2 * i + 1
        if child >= g.total[0].queue:
            break
        if child + 1 < g.total[0].queue and _queue_before(g, g.queue[child + 1], g.queue[child]):
            child += 1
        below = g.queue[child]
        if not _queue_before(g, below, r):
            break
        g.queue[i], g.regions[below].place = below, i
        i = child
    g.queue[i], g.regions[r].place = r, i


@inner
def queue_remove(g, r):
    i = g.regions[r].place
    g.total[0].queue -= 1
    last = g.queue[g.total[0].queue]
    if last != r:
        g.queue[i], g.regions[last].place = last, i
        queue_down(g, queue_up(g, i))


# ---------------------------------------------------------------- the edges of a region: a binary heap, and a list


@inner
def lower_number(g, e, f):
    return g.regions[g.edges[e].ends[FOREIGN]].number < g.regions[g.edges[f].ends[FOREIGN]].number


@inner
def _edge_before(g, e, f):
    if g.edges[e].key != g.edges[f].key:
        return g.edges[e].key > g.edges[f].key
    return lower_number(g, e, f)


@inner
def heap_up(g, r, i):
    start = g.regions[r].start[OWNED]
    e = g.pool[start + i]
    while i > 0:
        above = g.pool[start + (i - 1) // 2]
        if not _edge_before(g, e, above):
            break
        g.pool[start + i], g.edges[above].at[OWNED] = above, i
        i = (i - 1) // 2
    g.pool[start + i], g.edges[e].at[OWNED] = e, i
    return i


@inner
def heap_down(g, r, i):
    start, length = g.regions[r].start[OWNED], g.regions[r].length[OWNED]
    e = g.pool[start + i]
    while True:
        child = 2 * i + 1
        if child >= length:
            break
        if child + 1 < length and _edge_before(g, g.pool[start + child + 1], g.pool[start + child]):
            child += 1
        below = g.pool[start + child]
        if not _edge_before(g, below, e):
            break
        g.pool[start + i], g.edges[below].at[OWNED] = below, i
        i = child
    g.pool[start + i], g.edges[e].at[OWNED] = e, i


@inner
def append(g, kind, r, e):
    """Put edge e at the end of a list of region r, where the heap's order does not hold yet; its position."""
    if g.regions[r].length[kind] == g.regions[r].room[kind]:
        _make_room(g, kind, r)
    i = g.regions[r].length[kind]
    g.pool[g.regions[r].start[kind] + i] = e
    g.edges[e].at[kind] = i
    g.regions[r].length[kind] += 1
    return i


@inner
def drop(g, kind, e):
    """Take edge e out of the list of its owner (the heap) or of its other end."""
    r, i = g.edges[e].ends[kind], g.edges[e].at[kind]
    g.regions[r].length[kind] -= 1
    last = g.pool[g.regions[r].start[kind] + g.regions[r].length[kind]]
    if last != e:
        g.pool[g.regions[r].start[kind] + i] = last
        g.edges[last].at[kind] = i
        if kind == OWNED:
            heap_down(g, r, heap_up(g, r, i))


@inner
def _make_room(g, kind, r):
    """Move a full list to where it has twice the room; when the pool ends, pack all lists first.

    Packed, each of at most 2 n lists takes 4 places or twice its length; there are under 2 n edges, each in two lists:
    at most 16 n places, and the full list has room again.
    """
    need = 2 * g.regions[r].room[kind]
    if g.total[0].pool + need > len(g.pool):
        packed = np.empty(len(g.pool), np.int32)
        end = 0
        for k in range(2):
            for q in range(len(g.regions)):
                if g.regions[q].room[k]:
                    start, length = g.regions[q].start[k], g.regions[q].length[k]
                    packed[end : end + length] = g.pool[start : start + length]
                    g.regions[q].start[k], g.regions[q].room[k] = end, max(4, 2 * length)
                    end += g.regions[q].room[k]
        g.pool[:end] = packed[:end]
        g.total[0].pool = end
    else:
        start, length = g.regions[r].start[kind], g.regions[r].length[kind]
        g.regions[r].start[kind], g.regions[r].room[kind] = g.total[0].pool, need
        g.total[0].pool += need
        g.pool[g.regions[r].start[kind] : g.regions[r].start[kind] + length] = g.pool[start : start + length]
