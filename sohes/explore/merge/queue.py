"""Which region has the best edge: a tournament, as in a cup.

Regions stand at the leaves of a binary tree in an array, node i above the nodes 2 i and 2 i + 1. Each node names the
better of the two below it, so node 1 names the best of all, and a change at a leaf replays only the matches above it.
"""

from __future__ import annotations

import numpy as np

from sohes.explore.merge.graph import KEPT, NONE, inner


@inner
def first(g):
    return g.queue[1]


@inner
def set_bound(g, r, bound):
    """No edge that region r keeps is more similar than `bound`."""
    _set(g, r, bound, np.int32(NONE), np.int32(NONE), np.int32(NONE))


@inner
def set_best(g, r, i):
    """The best edge that region r keeps is the one at place i."""
    edge = g.edges[i]
    x, y = g.regions[r].number, g.regions[edge.other].number
    _set(g, r, edge.similarity, np.int32(i - g.regions[r].start[KEPT]), min(x, y), max(x, y))


@inner
def _set(g, r, best, at, lower, higher):
    region = g.regions[r]
    region.at = at
    if best != region.best or lower != region.pair[0] or higher != region.pair[1]:
        region.best, region.pair[0], region.pair[1] = best, lower, higher
        _replay(g, r)


@inner
def _replay(g, r):
    node = (len(g.regions) + r) // 2
    while node:
        left, right = g.queue[2 * node], g.queue[2 * node + 1]
        winner = right if _beats(g.regions[right], g.regions[left]) else left
        if winner == g.queue[node] and winner != r:
            break
        g.queue[node] = winner
        node //= 2


@inner
def _beats(x, y):
    """Higher similarity; of equal ones a bound, which may stand for anything, then the lowest pair of numbers."""
    if x.best != y.best:
        return x.best > y.best
    if x.pair[0] != y.pair[0]:
        return x.pair[0] < y.pair[0]
    return x.pair[1] < y.pair[1]
