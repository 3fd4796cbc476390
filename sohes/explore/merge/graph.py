"""The graph of a running merge: its regions, their edges, and the lists that hold them.

- A **region** is a set of connected patches, and goes by the index of the patch that it grew from. Its `number` is its
  node in the merge tree, which changes with every merge.
- An **edge** joins two adjacent regions. One of the two keeps it, with its similarity; the other notes who does.
- The **similarity** of two regions is the cosine of their features.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

# For functions that only compiled ones call: a wrapper for Python would take longer to compile than they do.
inner = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # type: ignore[call-overload]

KEPT, KEEPERS = 0, 1  # the two lists of a region: the edges that it keeps, and the neighbours that keep an edge to it
NONE = -1

REGION = np.dtype(
    [
        ("number", "i4"),
        ("row", "i4"),  # of its feature, see `feature`
        ("norm", "f8"),
        ("turned", "f8"),  # radians that its feature has turned at most, in all merges
        ("lowest", "f8"),  # no edge that it keeps has a lower key
        ("best", "f8"),  # similarity of its best edge, or a bound that no edge exceeds; -2 without edges
        ("pair", "i4", 2),  # numbers of the ends of the best edge, lower first; NONE for a bound
        ("at", "i4"),  # place of the best edge in the list of kept ones; NONE for a bound
        ("start", "i4", 2),  # of its two lists
        ("length", "i4", 2),
        ("room", "i4", 2),
    ],
    align=True,
)
EDGE = np.dtype(
    [
        ("other", "i4"),  # the region at the other end; the rest is for kept edges only
        ("seen", "i4"),  # the keeper's number when the similarity was computed
        ("similarity", "f8"),
    ],
    align=True,
)


class Graph(NamedTuple):
    patches: np.ndarray  # (n, C) float32 features of the patches
    sums: np.ndarray  # (n / 2, C) float32 sums of patches: features of merged regions
    regions: np.ndarray  # REGION, as many as the next power of two
    edges: np.ndarray  # EDGE; a list of edges is a range of these
    keys: np.ndarray  # of the edges, apart since they are scanned: the angle when last computed, plus `turned` then
    queue: np.ndarray  # a tournament, see `sohes.explore.merge.queue`
    used: np.ndarray  # how many of `edges` and of `sums` are taken
    slack: float  # by how much rounding may move a similarity


@inner
def feature(g, r):
    """The sum of the patches of region r: as good as their mean, as the cosine ignores length."""
    row = g.regions[r].row
    return g.patches[row] if row < len(g.patches) else g.sums[row - len(g.patches)]


@inner
def degree(g, r):
    return g.regions[r].length[KEPT] + g.regions[r].length[KEEPERS]


@inner
def are_adjacent(g, q, r):
    return find(g, KEEPERS, q, r) != NONE or find(g, KEEPERS, r, q) != NONE


@inner
def keep(g, r, other):
    """Let region r keep an edge to `other`; returns its place."""
    append(g, KEEPERS, other, r)
    return append(g, KEPT, r, other)


# ---------------------------------------------------------------- lists that grow


@inner
def places(g, kind, r):
    """Where the list lies in `edges`, until the next `append`."""
    region = g.regions[r]
    return range(region.start[kind], region.start[kind] + region.length[kind])


@inner
def find(g, kind, r, other):
    for i in places(g, kind, r):
        if g.edges[i].other == other:
            return i
    return NONE


@inner
def append(g, kind, r, other):
    region = g.regions[r]
    if region.length[kind] == region.room[kind]:
        _make_room(g, kind, r)
    i = region.start[kind] + region.length[kind]
    g.edges[i].other = other
    region.length[kind] += 1
    return i


@inner
def pop(g, kind, r):
    region = g.regions[r]
    region.length[kind] -= 1
    return g.edges[region.start[kind] + region.length[kind]].other


@inner
def remove(g, kind, r, i):
    """Fill place i with the last of the list."""
    region = g.regions[r]
    region.length[kind] -= 1
    last = region.start[kind] + region.length[kind]
    g.keys[i] = g.keys[last]
    g.edges[i : i + 1] = g.edges[last : last + 1]


@inner
def _make_room(g, kind, r):
    """Move a full list to where it has twice the room; at the end of `edges`, pack all lists first.

    Packed, each of at most 2 n lists takes 4 places or twice its length; there are under 2 n edges, each in two lists:
    at most 16 n places, and the full list has room again.
    """
    region = g.regions[r]
    if g.used[0] + 2 * region.room[kind] > len(g.edges):
        edges, keys = g.edges.copy(), g.keys.copy()
        g.used[0] = 0
        for q in range(len(g.patches)):
            for k in range(2):
                if g.regions[q].room[k]:
                    _place(g, k, q, edges, keys, max(4, 2 * g.regions[q].length[k]))
    else:
        _place(g, kind, r, g.edges, g.keys, 2 * region.room[kind])


@inner
def _place(g, kind, r, edges, keys, room):
    """Copy a list from `edges` and `keys` to the first free places of the graph's own."""
    region = g.regions[r]
    old, new, length = region.start[kind], g.used[0], region.length[kind]
    g.edges[new : new + length] = edges[old : old + length]
    g.keys[new : new + length] = keys[old : old + length]
    region.start[kind], region.room[kind] = new, room
    g.used[0] += room
