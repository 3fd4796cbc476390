from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sohes.bench.hierarchy import boolean_parents, nested_discs
from sohes.masks import forest, intersections, mask_set


def bars(*spans: tuple[int, int], width: int = 100) -> np.ndarray:
    """(N, 1, width) masks of the pixels [start, stop)."""
    found = np.zeros((len(spans), 1, width), bool)
    for mask, (start, stop) in zip(found, spans, strict=True):
        mask[0, start:stop] = True
    return found


def parents_of(*spans: tuple[int, int], theta_cover: float = 0.9) -> list[int]:
    return forest.parents_by_coverage(intersections(bars(*spans)), theta_cover=theta_cover).tolist()


def test_whole_part_and_subpart() -> None:
    assert parents_of((0, 80), (10, 40), (15, 25), (50, 70), (85, 95)) == [-1, 0, 1, 0, -1]


def test_coverage_must_reach_the_threshold() -> None:
    assert parents_of((0, 50), (40, 60)) == [-1, -1]
    assert parents_of((0, 50), (33, 53)) == [-1, -1]  # 17 of 20
    assert parents_of((0, 50), (32, 52)) == [-1, 0]  # 18 of 20: exactly 0.9
    assert parents_of((0, 50), (31, 51), theta_cover=0.95) == [-1, 0]  # 19 of 20


def test_at_a_threshold_of_one_only_what_lies_wholly_inside_is_a_part() -> None:
    """As in the paper's table 6b, where most relations stay."""
    assert parents_of((0, 50), (0, 49), (40, 51), (20, 30), (0, 50), theta_cover=1.0) == [-1, 0, -1, 1, -1]


def test_near_duplicates_and_equals_are_not_nested() -> None:
    assert parents_of((0, 50), (0, 46)) == [-1, -1]  # 46 of the larger one's 50 are more than 0.9
    assert parents_of((0, 50), (0, 45)) == [-1, -1]  # exactly 0.9
    assert parents_of((0, 50), (0, 44)) == [-1, 0]
    assert parents_of((0, 50), (0, 50)) == [-1, -1]


def test_of_two_parents_of_one_size_the_first_is_taken() -> None:
    assert parents_of((0, 50), (5, 55), (20, 30)) == [-1, -1, 0]


def test_empty_masks_have_no_relations() -> None:
    assert parents_of((0, 50), (10, 10)) == [-1, -1]


def test_what_is_said_counts_where_nothing_covers_a_mask_and_at_least_half_of_it_lies_inside() -> None:
    shared = intersections(bars((0, 50), (10, 20), (40, 60), (41, 61), (5, 40)))
    said = np.zeros((5, 5), bool)
    said[0, [2, 3]] = True  # 10 of 20 and 9 of 20 lie inside
    said[2, 1] = said[4, 1] = True  # of two masks that lie in the first
    expected = np.zeros((5, 5), bool)
    expected[0, [1, 2, 4]] = expected[4, 1] = True
    np.testing.assert_array_equal(forest.covered_else_said(said, shared, theta_cover=0.9), expected)


def test_the_relation_is_made_transitive() -> None:
    spans = (0, 100), (0, 60), (43, 63)  # 17 of 20 is not enough for the second, 0.95 of 0.95 for nobody
    assert parents_of(*spans) == [-1, 0, 0]
    chain = np.zeros((3, 3), bool)
    chain[0, 1] = chain[1, 2] = True
    closed = forest.transitive_closure(chain)
    assert closed[0, 2]
    assert closed.sum() == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_the_closure_holds_what_a_path_leads_to_also_in_cycles(seed: int, density: float) -> None:
    relation = np.random.default_rng(seed).random((14, 14)) < density
    paths = sum(np.linalg.matrix_power(relation.astype(float), steps) for steps in range(1, 15))
    np.testing.assert_array_equal(forest.transitive_closure(relation), paths > 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.5, 0.95))
def test_ancestry_is_a_strict_order_and_the_forest_agrees(seed: int, theta_cover: float) -> None:
    found = nested_discs(12, 40, seed)
    shared = intersections(found)
    area = np.diagonal(shared)
    ancestors = forest.ancestors_from_intersections(shared, theta_cover=theta_cover)
    assert not (ancestors & ancestors.T).any()
    assert not ((ancestors.astype(int) @ ancestors > 0) & ~ancestors).any()
    above, below = np.nonzero(ancestors)
    assert (area[above] > area[below]).all()
    parents = forest.parents_by_coverage(shared, theta_cover=theta_cover)
    np.testing.assert_array_equal(parents, boolean_parents(found, theta_cover=theta_cover))
    assert not (forest.forest_ancestors(parents) & ~ancestors).any()


def test_forest_ancestors_and_levels() -> None:
    parents = np.array([-1, 0, 1, 0, -1])
    ancestors = forest.forest_ancestors(parents)
    assert np.argwhere(ancestors).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2]]
    assert forest.levels(parents).tolist() == [0, 1, 2, 1, 0]
    assert forest.levels(np.zeros(0, np.int64)).tolist() == []


def test_levels_need_no_matrix_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 40):
        parents, order = np.full(n, -1), rng.permutation(n)
        for place in range(1, n):
            parents[order[place]] = order[rng.integers(0, place)] if rng.random() < 0.8 else -1
        assert forest.levels(parents).tolist() == forest.forest_ancestors(parents).sum(0).tolist()
    monkeypatch.setattr(forest, "forest_ancestors", lambda parents: pytest.fail("it grows with the square"))
    assert forest.levels(np.arange(-1, 100_000)).tolist() == list(range(100_001))
    with pytest.raises(ValueError, match="cycle"):
        forest.levels(np.array([1, 0]))


@pytest.mark.parametrize(
    ("parents", "message"), [([1, 0], "cycle"), ([0], "cycle"), ([2, -1], "lie in"), ([-2], "lie in")]
)
def test_what_is_no_forest_is_refused(parents: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forest.forest_ancestors(np.array(parents))


def test_relink_skips_dropped_ancestors() -> None:
    parents = np.array([-1, 0, 1, 2, 0])
    assert forest.relink(parents, np.array([3, 0, 4])).tolist() == [1, -1, 1]
    assert forest.relink(parents, np.array([3])).tolist() == [-1]
    assert forest.relink(parents, np.zeros(0, np.int64)).tolist() == []


def test_the_nearest_larger_ancestor_is_the_parent() -> None:
    assert forest.larger_parents(np.array([-1, 0, 1]), np.array([50, 20, 30])).tolist() == [-1, 0, 0]
    assert forest.larger_parents(np.array([-1, 0]), np.array([20, 20])).tolist() == [-1, -1]
    chain = np.array([-1, 0, 1, 2])
    assert forest.larger_parents(chain, np.array([50, 40, 20, 5]), times=2).tolist() == [-1, -1, 0, 2]


def test_select_keeps_order_scores_and_sources() -> None:
    found = mask_set(
        bars((0, 90), (10, 60), (20, 30)), scores=np.array([0.1, 0.2, 0.3]), parents=np.array([-1, 0, 1]), sources="abc"
    )
    kept = forest.select(found, np.array([2, 0]))
    assert kept.rles == (found.rles[2], found.rles[0])
    assert kept.parents.tolist() == [1, -1]
    np.testing.assert_allclose(kept.scores, [0.3, 0.1])


def named(n: int, *pairs: tuple[int, int]) -> np.ndarray:
    """`(0, 1)`: mask 0 is said to be an ancestor of mask 1."""
    relation = np.zeros((n, n), bool)
    for above, below in pairs:
        relation[above, below] = True
    return relation


def forest_of(relation: np.ndarray, areas: list[int], scores: list[float] | None = None) -> list[int]:
    weights = np.ones(len(areas)) if scores is None else np.array(scores)
    return forest.forest_from_relation(relation, np.array(areas), weights).tolist()


def test_a_forest_keeps_most_of_what_a_relation_says() -> None:
    assert forest_of(named(3, (0, 1), (1, 2), (0, 2)), [9, 5, 2]) == [-1, 0, 1]
    assert forest_of(named(3, (0, 1), (0, 2)), [9, 5, 2]) == [-1, 0, 0]
    # mask 2, the smallest that is named for mask 3, is itself in nothing: below mask 1, mask 3 keeps mask 0, too
    assert forest_of(named(4, (0, 1), (0, 3), (1, 3), (2, 3)), [9, 7, 5, 2]) == [-1, 0, -1, 1]
    # below mask 1, mask 2 would come under mask 0, which it is not said to be in
    assert forest_of(named(4, (0, 1), (1, 2), (3, 2)), [9, 5, 2, 4]) == [-1, 0, 3, -1]


def test_an_ancestor_counts_as_much_as_its_score() -> None:
    rivals = named(3, (0, 2), (1, 2))
    assert forest_of(rivals, [9, 8, 2], [0.9, 0.3, 0.5]) == [-1, -1, 0]
    assert forest_of(rivals, [9, 8, 2], [0.3, 0.9, 0.5]) == [-1, -1, 1]
    wrong = named(4, (0, 1), (1, 2), (3, 2))  # as above: mask 0 speaks against mask 1, if it is worth anything
    assert forest_of(wrong, [9, 5, 2, 4], [0.1, 0.9, 0.5, 0.7]) == [-1, 0, 1, -1]
    assert forest_of(wrong, [9, 5, 2, 4], [0.3, 0.9, 0.5, 0.7]) == [-1, 0, 3, -1]


def test_of_equal_ancestors_the_smaller_one_is_the_parent() -> None:
    assert forest_of(named(3, (0, 2), (1, 2)), [9, 8, 2]) == [-1, -1, 1]
    assert forest_of(named(3, (0, 2), (1, 2)), [8, 9, 2]) == [-1, -1, 0]


def test_a_relation_with_cycles_gives_a_forest() -> None:
    mutual = named(3, (0, 1), (1, 0), (2, 2))
    assert forest_of(mutual, [5, 9, 5]) == [1, -1, -1]
    assert forest_of(mutual, [5, 5, 5]) == [-1, -1, -1]
    assert forest_of(np.zeros((0, 0), bool), []) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 1))
def test_no_other_parent_keeps_more_of_the_relation(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    relation, areas, scores = rng.random((9, 9)) < density, rng.integers(1, 20, 9), rng.integers(1, 5, 9) / 4
    parents = forest.forest_from_relation(relation, areas, scores)
    larger = areas[:, None] > areas

    def agreement(j: int, parent: int) -> float:
        with_parent = parents.copy()
        with_parent[j] = parent
        above = forest.forest_ancestors(with_parent)[:, j]
        return float(np.where(above, np.where(relation[:, j] & larger[:, j], scores, -scores), 0).sum())

    for j, parent in enumerate(parents):
        choices = np.flatnonzero(relation[:, j] & larger[:, j])
        assert (parent < 0) == (len(choices) == 0)
        assert all(agreement(j, parent) >= agreement(j, other) for other in choices)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_a_relation_that_is_a_forest_comes_back(seed: int) -> None:
    found = nested_discs(12, 40, seed)
    shared = intersections(found)
    areas = np.diagonal(shared)
    ancestors = forest.ancestors_from_intersections(shared, theta_cover=0.9)
    parents = forest.parents_from_ancestors(ancestors, areas)
    scores = np.random.default_rng(seed).random(12) + 0.01
    again = forest.forest_from_relation(forest.forest_ancestors(parents), areas, scores)
    np.testing.assert_array_equal(again, parents)
