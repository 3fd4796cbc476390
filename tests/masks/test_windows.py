import itertools

import numpy as np
import pytest

from sohes.masks.windows import touches_cut, windows


def boxes(image_hw, *levels, overlap=0.25):
    return [window.box for window in windows(image_hw, levels=levels, overlap=overlap)]


def test_without_levels_or_with_that_of_the_whole_there_is_one_window():
    assert boxes((30, 50)) == boxes((30, 50), 1.0) == [(0, 0, 30, 50)]


@pytest.mark.parametrize(("level", "count"), [(0.6, 2), (0.5, 3), (0.35, 4), (0.25, 5), (0.9, 2)])
def test_a_level_has_as_many_windows_as_the_overlap_needs_and_no_more(level, count):
    _, *smaller = boxes((1500, 2250), level)
    assert len(smaller) == count**2
    assert smaller[0][:2] == (0, 0)
    assert smaller[-1][2:] == (1500, 2250)
    starts = sorted({box[0] for box in smaller})
    side = smaller[0][2]
    assert side == round(level * 1500)
    assert all(a + side - b >= 0.25 * side - 1 for a, b in itertools.pairwise(starts))
    step = (1500 - side) / max(1, count - 2)  # with one window less, neighbours would share too little
    assert count == 2 or side - step < 0.25 * side


@pytest.mark.parametrize("image_hw", [(37, 53), (1, 1), (1, 9), (5, 2), (101, 7)])
@pytest.mark.parametrize("level", [0.1, 0.35, 0.6, 0.99, 1 - 1e-12])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_the_windows_of_each_level_cover_every_pixel(image_hw, level, overlap):
    found = windows(image_hw, levels=(1.0, level), overlap=overlap)
    seen = np.zeros(image_hw, bool)
    for window in found[1:]:
        y0, x0, y1, x1 = window.box
        assert 0 <= y0 < y1 <= image_hw[0]
        assert 0 <= x0 < x1 <= image_hw[1]
        assert window.longer == max(y1 - y0, x1 - x0)
        seen[y0:y1, x0:x1] = True
    assert seen.all() or found[1:] == []  # a single pixel has no smaller window, nor has a level of nearly 1
    assert len({window.box for window in found}) == len(found)


def test_levels_are_numbered_from_the_largest_windows_on():
    found = windows((100, 100), levels=(0.35, 1.0, 0.6), overlap=0.25)
    assert [window.level for window in found] == [0] + [1] * 4 + [2] * 16


# ---------------------------------------------------------------- cuts


SIDES = np.zeros((5, 4, 4), bool)
SIDES[0, 0, 1] = SIDES[1, 1, 0] = SIDES[2, 3, 1] = SIDES[3, 1, 3] = SIDES[4, 1, 1] = True  # top, left, bottom, right


@pytest.mark.parametrize(
    ("crop", "touching"),
    [
        ((10, 10, 20, 20), [True, True, True, True, False]),
        ((0, 10, 10, 20), [False, True, True, True, False]),
        ((10, 0, 20, 10), [True, False, True, True, False]),
        ((90, 40, 100, 50), [True, True, False, False, False]),
        ((10, 40, 20, 50), [True, True, True, False, False]),
        ((0, 0, 100, 50), [False] * 5),
    ],
)
def test_only_the_crops_own_cuts_count(crop: tuple[int, ...], touching: list[bool]) -> None:
    assert touches_cut(SIDES, np.array(crop), image_hw=(100, 50)).tolist() == touching
