"""An order that is computed: a permutation, a function of its key, and as good as one that was drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sohes.train.shuffle import Shuffled


def order(count: int, *key: int) -> np.ndarray:
    shuffled = Shuffled(count, key)
    return np.array([shuffled[place] for place in range(count)])


@given(st.integers(1, 700), st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_every_item_comes_once(count: int, key: list[int]) -> None:
    assert np.array_equal(np.sort(order(count, *key)), np.arange(count))


@pytest.mark.parametrize("place", [-1, 5])
def test_there_is_nothing_outside(place: int) -> None:
    with pytest.raises(IndexError, match="an order of 5 has no place"):
        Shuffled(5, (0,))[place]


def test_of_millions_no_two_places_share_an_item() -> None:
    shuffled = Shuffled(11_150_000, (7, 0))
    found = {shuffled[place] for place in range(0, len(shuffled), 997)}
    assert len(found) == -(-len(shuffled) // 997)
    assert max(found) < len(shuffled)


def test_the_key_alone_decides_and_every_part_of_it_counts() -> None:
    assert np.array_equal(order(1000, 3, 1), order(1000, 3, 1))
    for other in ((3, 2), (4, 1), (3, 1, 0, 1), (1, 3)):
        assert (order(1000, 3, 1) == order(1000, *other)).mean() < 0.01


def test_every_item_is_as_likely_at_every_place() -> None:
    count, keys = 12, 6000  # not a power of two: some numbers are permuted again
    found = np.zeros((count, count), int)
    for key in range(keys):
        found[np.arange(count), order(count, key)] += 1
    expected = keys / count
    # chi-squared over 144 cells, 121 degrees of freedom: above 190 once in 20,000 seeds; the keys are fixed
    assert ((found - expected) ** 2 / expected).sum() < 190


def test_neighbours_and_epochs_have_nothing_to_do_with_each_other() -> None:
    first, second = order(5000, 1, 0), order(5000, 1, 1)
    for one, other in ((first, np.arange(5000)), (first[1:], first[:-1]), (first, second)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    # A drawn order keeps 1 in 2 of its steps rising, and about one item at its place.
    assert 0.47 < (np.diff(first) > 0).mean() < 0.53
    assert (first == np.arange(5000)).sum() < 8
