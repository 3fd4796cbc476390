"""The gate for foreign masks: a sound mask or a sentence, never a hang, never much memory."""

from __future__ import annotations

import resource
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sohes.masks import decode, encode, gate, mask_set
from sohes.structures import MaskSet

SIZE = (12, 17)
DRAWN = np.zeros((1, *SIZE), bool)
DRAWN[0, 3:9, 2:14] = DRAWN[0, 10:, 0] = True
RLE = encode(DRAWN)[0]

# pycocotools 2.0.11 decodes in a way that numpy 2.4 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def drawn(rle: bytes, size: tuple[int, int] = SIZE) -> np.ndarray:
    return decode(MaskSet(*size, (rle,), np.ones(1, np.float32), np.full(1, -1), ("",)))[0]


def runs_of(mask_HW: np.ndarray) -> list[int]:
    """Lengths of its runs column by column, the first one outside."""
    column = mask_HW.T.ravel().astype(int)
    places = np.flatnonzero(np.diff(column, prepend=0))
    return np.diff(places, prepend=0, append=column.size).tolist()


def letters(numbers: list[int]) -> bytes:
    """Compressed run lengths of any numbers, sound or not."""
    text = bytearray()
    for place, number in enumerate(numbers):
        value, more = number - (numbers[place - 2] if place > 2 else 0), True
        while more:
            five, value = value & 31, value >> 5
            more = value != (-1 if five & 16 else 0)
            text.append(48 + five + 32 * more)
    return bytes(text)


def gated(segmentation: object, size: tuple[int, int] = SIZE) -> bytes:
    return gate.checked([gate.run_lengths(segmentation, size)], size)[0]


# ---------------------------------------------------------------- sound masks


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_sound_run_lengths_pass_as_they_are(height, width, density, seed):
    found = mask_set(np.random.default_rng(seed).random((3, height, width)) < density)
    assert gate.checked(found.rles, (height, width)) == found.rles
    for mask_HW, rle in zip(decode(found), found.rles, strict=True):
        assert gated({"size": [height, width], "counts": runs_of(mask_HW)}, (height, width)) == rle
        assert letters(runs_of(mask_HW)) == rle


@pytest.mark.parametrize("compress", [letters, list])
def test_empty_runs_between_others_are_joined(compress):
    runs = runs_of(DRAWN[0])
    for place in range(1, len(runs)):
        split = [*runs[:place], 1, 0, runs[place] - 1, *runs[place + 1 :]]
        for given_runs in (split, [*runs, 0], [*runs, 0, 0]):
            counts = compress(given_runs)
            assert gated({"counts": counts, "size": list(SIZE)}) == RLE


@pytest.mark.parametrize(
    "segmentation",
    [
        [[2, 3, 14, 3, 14, 9, 2, 9]],
        [["2", 3.0, 14, "3.0", 14, 9, 2, 9]],
        [2, 3, 14, 3, 14, 9, 2, 9],
        [[[2, 3], [14, 3], [14, 9], [2, 9]]],
        [[[2, 3, 14, 3, 14, 9, 2, 9]]],
        [[[[2, 3, 14, 3, 14, 9, 2, 9]]], [], [5, 5], [1, 1, 2, 2]],
        [[2, 3, 8, 3, 8, 9, 2, 9], [8, 3, 14, 3, 14, 9, 8, 9]],
    ],
)
def test_polygons_in_all_unambiguous_forms(segmentation):
    expected = np.zeros(SIZE, bool)
    expected[3:9, 2:14] = True
    np.testing.assert_array_equal(drawn(gated(segmentation)), expected)


def test_fractions_of_the_sides_are_scaled():
    inside = [[2 / 17, 3 / 12, 14 / 17, 3 / 12, 14 / 17, 9 / 12, 2 / 17, 9 / 12]]
    assert gate.run_lengths(inside, SIZE, in_sides=True) == gated([[2, 3, 14, 3, 14, 9, 2, 9]])


@pytest.mark.parametrize("size", [[12, 17], (12, 17), ["12", 17.0]])
@pytest.mark.parametrize("counts", [RLE, RLE.decode(), runs_of(DRAWN[0]), [str(n) for n in runs_of(DRAWN[0])]])
def test_run_lengths_in_all_unambiguous_forms(size, counts):
    assert gated({"size": size, "counts": counts}) == RLE


def test_polygons_are_drawn_as_pycocotools_draws_them():
    random = np.random.default_rng(0)
    for _ in range(50):
        corners = [random.uniform(-4, 20, 2 * n).tolist() for n in random.integers(3, 9, 3)]
        expected = coco_mask.merge(coco_mask.frPyObjects(corners, *SIZE))["counts"]
        assert gated(corners) == expected


# ---------------------------------------------------------------- unsound masks


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "there is no segmentation"),
        (7, "neither polygons nor runs"),
        ({}, "no numbers|no whole numbers"),
        ({"counts": None}, "no whole numbers"),
        ({"counts": [[1, 2], [3, 4]]}, "no whole numbers"),
        ({"counts": [100, -1, 105]}, "no whole numbers"),
        ({"counts": [100.5, 103.5]}, "no whole numbers"),
        ({"counts": [204.0, float("inf")]}, "no whole numbers"),
        ({"counts": ["many"]}, "no numbers"),
        ({"counts": [205]}, "do not fill its size 12 x 17"),
        ({"counts": [203]}, "do not fill"),
        ({"counts": ""}, "do not fill"),
        ({"counts": [204], "size": [17, 12]}, r"\[17, 12\] is not the image's \[12, 17\]"),
        ({"counts": [204], "size": "12x17"}, "is not the image's"),
        ({"counts": letters([204, 2**28])}, "do not fill"),
        ({"counts": letters([2**31])}, "cut short, or hold letters"),
        ({"counts": letters([10, -5, 199])}, "do not fill"),
        ({"counts": RLE.decode() + "é"}, "letters that run lengths do not have"),
        ({"counts": "\ud800"}, "letters"),
        ({"counts": RLE.decode() + "o"}, "cut short"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 coordinates, which make no pairs"),
        ([[1, 2, 3, None, 5, 6]], "no finite number"),
        ([[1, 2, 3, float("-inf"), 5, 6]], "no finite number"),
        ([[1, 2, "x", 4, 5, 6]], "no number"),
        ([[1, 2, 10**400, 4, 5, 6]], "no number|no finite"),
        ([[1, 2, 1e300, 4, 5, 6]], "far outside"),
        ([[1, 2, 3, 4, 5, -35]], "far outside"),
        ([[1, 2, 3, 4], 5], "no lists of numbers"),
        ([{"x": 1, "y": 2}], "no number"),
        ([[[[[[[1, 2, 3, 4, 5, 6]]]]]]], "no lists of numbers"),
        ([[1, 1, 40, 40] * 15000], "its outline has"),
    ],
)
def test_anything_else_is_a_sentence(segmentation, words):
    with pytest.raises(ValueError, match=words):
        gated(segmentation)


@pytest.mark.parametrize(("place", "bad"), [(0, RLE[:-1]), (3, b"b'" + RLE), (1, letters([1, 2, 3]))])
def test_the_unsound_one_of_several_is_named(place, bad):
    rles = [RLE] * 4
    rles[place] = bad
    with pytest.raises(gate.Unsound) as raised:
        gate.checked(rles, SIZE)
    assert raised.value.place == place


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (2**20, 2**20), ("a", 5), (None, 5), (5.5, 5), (True, 5)])
def test_sizes_that_no_image_has(size):
    with pytest.raises(ValueError, match="whole numbers from 1"):
        gate.checked_size(*size)


@pytest.mark.parametrize(
    ("value", "as_whole", "as_number"),
    [
        (7, 7, 7), ("7", 7, 7), (7.0, 7, 7), (7.5, None, 7.5), ("7.5", None, 7.5), (True, None, None),
        (None, None, None), ("", None, None), ("seven", None, None), (float("nan"), None, None),
        (2**63, None, 2**63), (-(2**62), -(2**62), -(2**62)), ([7], None, None), ({}, None, None),
    ],
)  # fmt: skip
def test_numbers_of_other_types(value, as_whole, as_number):
    assert gate.whole(value) == as_whole
    assert gate.number(value) == as_number


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "True"])
def test_set_flags(value):
    assert gate.flag(value) is True


@pytest.mark.parametrize("value", [0, 0.0, False, None, "0", "false", ""])
def test_flags_that_are_not_set(value):
    assert gate.flag(value) is False


@pytest.mark.parametrize("value", [2, "yes please", [1], 0.5, float("nan")])
def test_what_is_no_flag(value):
    with pytest.raises(ValueError, match="a flag is 0 or 1"):
        gate.flag(value)


# ---------------------------------------------------------------- anything at all

NUMBERS = st.one_of(
    st.integers(-5, 40),
    st.floats(-50, 60),
    st.sampled_from([None, True, "3", "x", float("nan"), float("inf"), -1, 2**31, 2**32 - 1, 2**64, 1e300]),
)
LISTS = st.recursive(st.lists(NUMBERS, max_size=9), lambda inner: st.lists(inner, max_size=4), max_leaves=12)
TEXTS = st.one_of(
    st.text("".join(map(chr, range(40, 116))) + "é\ud800\0", max_size=20),
    st.lists(st.integers(-3, 60), max_size=8).map(lambda runs: letters(runs).decode("latin-1")),
    st.binary(max_size=8),
)
SIZES = st.one_of(st.just([12, 17]), st.lists(NUMBERS, max_size=3), NUMBERS)
MASKS = st.one_of(
    LISTS,
    NUMBERS,
    st.fixed_dictionaries({}, optional={"size": SIZES, "counts": st.one_of(LISTS, TEXTS, NUMBERS)}),
)


@settings(max_examples=1500, deadline=1000)  # milliseconds: a hang fails
@given(MASKS)
def test_anything_gives_a_sound_mask_or_a_sentence(segmentation):
    try:
        rle = gated(segmentation)
    except ValueError:
        return
    mask_HW = drawn(rle)
    assert mask_HW.shape == SIZE
    assert encode(mask_HW[None]) == (rle,)  # what pycocotools itself would have written: nothing is left to go wrong


def test_the_worst_polygons_take_little_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    longest = 999_000 // (2 * 7999)
    gated([[0, 0, 7999, 3999] * longest], (4000, 8000))
    for segmentation in ([[0, 0, 7999, 3999] * 2000], [[-1e9, 0, 1e9, 3999, 5, 5]], [[None] * 8]):
        with pytest.raises(ValueError, match=r"outline|outside|finite"):
            gated(segmentation, (4000, 8000))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 200


def test_a_thousand_masks_are_checked_in_little_memory():
    rles = [RLE] * 1000
    gate.checked(rles, SIZE)
    tracemalloc.start()
    gate.checked(rles, SIZE)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
