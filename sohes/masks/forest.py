"""Coverage, ancestors, forest: which mask is part of which (paper 3.1 step 4 and 3.2). Pure functions.

`ancestors[i, j]` is true if i is an ancestor of j. `parents[j]` is j's direct parent, -1 for a root.
"""

from __future__ import annotations

import numpy as np

from sohes.structures import MaskSet


def ancestors_from_intersections(shared_NN: np.ndarray, *, theta_cover: float) -> np.ndarray:
    """(N, N) bool ancestor relation from pixel intersections (paper 3.1, step 4).

    j is an ancestor of i if at least `theta_cover` of i's pixels are in j and less than `theta_cover` of j's are in i.
    The paper's text says "over", but its table 6b has relations at a threshold of 1, and HASSOD's code (Cao et al.,
    2023, the same first author) compares with "at least". Ours: an ancestor is strictly larger, which rules out cycles;
    and the relation is closed under transitivity, since coverage alone is not transitive (0.95 of 0.94 is below 0.9).
    """
    area = np.diagonal(shared_NN).astype(np.float64)
    covered = np.divide(shared_NN, area[:, None], out=np.zeros(shared_NN.shape), where=area[:, None] > 0)
    # covered[i, j]: the share of i's pixels that lie in j
    inside = (covered >= theta_cover) & (covered.T < theta_cover) & (area[:, None] < area[None, :])
    return transitive_closure(inside.T)


def covered_else_said(said_NN: np.ndarray, shared_NN: np.ndarray, *, theta_cover: float) -> np.ndarray:
    """(N, N) bool: the ancestors by coverage (paper 3.1, step 4); of a mask that has none, those that are said to be.

    Ours. What is said counts only if it covers half of the mask, for the ancestor head judges masks that it cannot see.
    """
    covered_NN = ancestors_from_intersections(shared_NN, theta_cover=theta_cover)
    half_NN = 2 * shared_NN >= np.diagonal(shared_NN)[None, :]
    return covered_NN | said_NN & half_NN & ~covered_NN.any(0)


def transitive_closure(relation_NN: np.ndarray) -> np.ndarray:
    """The smallest transitive relation that contains `relation_NN` (Warshall, 1962)."""
    above_NN = relation_NN.T.astype(bool, order="C")  # row j: what is above j
    between_N = above_NN.any(0) & above_NN.any(1)
    for k in np.flatnonzero(between_N):
        above_NN[above_NN[:, k]] |= above_NN[k]
    return above_NN.T


def parents_from_ancestors(ancestors_NN: np.ndarray, areas_N: np.ndarray) -> np.ndarray:
    """(N,) int64: the smallest ancestor of each mask, the lower index among equals; -1 for a root."""
    parents = np.full(len(areas_N), -1, np.int64)
    by_size = np.lexsort((np.arange(len(areas_N)), areas_N))
    for j in range(len(areas_N)):
        above = by_size[ancestors_NN[by_size, j]]
        if len(above):
            parents[j] = above[0]
    return parents


def parents_by_coverage(shared_NN: np.ndarray, *, theta_cover: float) -> np.ndarray:
    """(N,) int64 parents from pixel intersections, -1 for a whole entity (paper 3.1, step 4)."""
    ancestors_NN = ancestors_from_intersections(shared_NN, theta_cover=theta_cover)
    return parents_from_ancestors(ancestors_NN, np.diagonal(shared_NN))


def check_forest(parents_N: np.ndarray) -> None:
    """ValueError for a cycle or an index out of range."""
    n = len(parents_N)
    if n and (parents_N.min() < -1 or parents_N.max() >= n):
        raise ValueError(f"parents must lie in [-1, {n}) (got {parents_N.min()} to {parents_N.max()})")
    above_N = parents_N
    for _ in range(n.bit_length()):  # twice as far up each time
        above_N = np.where(above_N < 0, -1, above_N[above_N])
    if (above_N >= 0).any():
        raise ValueError(f"the parents form a cycle above mask {np.flatnonzero(above_N >= 0)[0]}")


def forest_ancestors(parents_N: np.ndarray) -> np.ndarray:
    """(N, N) bool: the ancestors that a forest implies. ValueError for a cycle or an index out of range."""
    check_forest(parents_N)
    n = len(parents_N)
    ancestors = np.zeros((n, n), bool)
    for j in range(n):
        above = parents_N[j]
        while above >= 0:
            ancestors[above, j] = True
            above = parents_N[above]
    return ancestors


def levels(parents_N: np.ndarray) -> np.ndarray:
    """(N,) int64 depth in the forest: 0 for a whole entity, 1 for a part, 2 for a subpart, ...

    ValueError for a cycle or an index out of range.
    """
    check_forest(parents_N)
    above_N, steps_N = parents_N, (parents_N >= 0).astype(np.int64)  # how many parents lie up to `above_N`
    while (above_N >= 0).any():  # twice as far up each time
        steps_N = steps_N + np.where(above_N < 0, 0, steps_N[above_N])
        above_N = np.where(above_N < 0, -1, above_N[above_N])
    return steps_N


def relink(parents_N: np.ndarray, kept_K: np.ndarray) -> np.ndarray:
    """Parents after all but `kept_K` masks were dropped, in the order of `kept_K`: the nearest kept ancestor."""
    new_index = {int(old): new for new, old in enumerate(kept_K)}
    relinked = np.full(len(kept_K), -1, np.int64)
    for new, old in enumerate(kept_K):
        above = int(parents_N[old])
        while above >= 0 and above not in new_index:
            above = int(parents_N[above])
        relinked[new] = new_index.get(above, -1)
    return relinked


def forest_from_relation(relation_NN: np.ndarray, areas_N: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
    """(N,) parents from a predicted relation that need not be transitive (paper 3.2; ours where it is silent).

    Only a strictly larger mask can be an ancestor; area then sorts the relation topologically, and it has no cycles. A
    forest cannot keep all of such a relation. Each mask with an ancestor, larger ones first, gets the one as its parent
    under which most of what the relation says of it stays true: whatever then lies above it counts its score, against
    it unless the relation names it. So a good mask is rather kept as an ancestor than a doubtful one. Among equals, the
    smaller parent is taken.
    """
    named_NN = relation_NN & (areas_N[:, None] > areas_N[None, :])
    # row i: the worth, to each mask, of having i and all that lies above it as ancestors
    worth_NN = np.where(named_NN, 1.0, -1.0) * scores_N[:, None].astype(np.float64)
    parents = np.full(len(areas_N), -1, np.int64)
    for j in np.argsort(-areas_N, kind="stable"):
        above = np.flatnonzero(named_NN[:, j])
        if len(above):
            parents[j] = above[np.lexsort((areas_N[above], -worth_NN[above, j]))[0]]
            worth_NN[j] += worth_NN[parents[j]]
    return parents


def larger_parents(parents_N: np.ndarray, areas_N: np.ndarray, *, times: float = 1.0) -> np.ndarray:
    """(N,) int64: the nearest ancestor of each mask that is more than `times` as large, or -1."""
    above = parents_N.copy()
    for j in range(len(above)):
        while above[j] >= 0 and areas_N[above[j]] <= times * areas_N[j]:
            above[j] = parents_N[above[j]]
    return above


def select(masks: MaskSet, kept_K: np.ndarray) -> MaskSet:
    """The masks `kept_K` in that order, relinked to their nearest kept ancestors."""
    return MaskSet(
        masks.height,
        masks.width,
        tuple(masks.rles[i] for i in kept_K),
        masks.scores[kept_K],
        relink(masks.parents, kept_K),
        tuple(masks.sources[i] for i in kept_K),
        None if masks.stated_areas is None else masks.stated_areas[kept_K],
    )
