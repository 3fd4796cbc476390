import numpy as np
import pytest

from sohes.data.imaging import letterbox
from sohes.masks.windows import windows
from sohes.params import TilesParams
from sohes.train.augment import View
from sohes.train.dataset import PairDataset
from sohes.train.tiles import cut_tiles

WHOLE = (0, 0, 32, 32)
PARAMS = TilesParams(levels=(0.6,), overlap=0.25, score_factor=0.9)


def weak_view(height, width, size=32, flip=False):
    longer = max(height, width)
    return View(height, width, (height * size // longer, width * size // longer), (0, 0), flip, (size, size))


def test_tiles_are_cut_from_the_photographs_own_pixels():
    image = np.random.default_rng(0).integers(0, 256, (320, 640, 3), np.uint8)
    tiles = cut_tiles(image, weak_view(320, 640), WHOLE, PARAMS)
    assert [window.box for window in tiles.windows] == [
        w.box for w in windows((16, 32), levels=[0.6], overlap=0.25)[1:]
    ]
    y0, x0, y1, x1 = (20 * side for side in tiles.windows[3].box)
    square, content = letterbox(image[y0:y1, x0:x1], 32)
    assert np.array_equal(tiles.squares[3], square)
    assert tiles.contents[3] == content == (16, 32)


@pytest.mark.parametrize(("height", "width"), [(90, 60), (33, 71)])
def test_a_flipped_view_has_flipped_tiles(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    flipped = cut_tiles(image, weak_view(height, width, flip=True), WHOLE, PARAMS)
    of_flipped = cut_tiles(np.ascontiguousarray(image[:, ::-1]), weak_view(height, width), WHOLE, PARAMS)
    assert flipped.windows == of_flipped.windows
    assert np.array_equal(flipped.squares, of_flipped.squares)


@pytest.mark.parametrize(("height", "width"), [(3, 4), (1, 7), (5, 1)])
def test_a_photograph_of_a_few_pixels_has_tiles_too(height, width):
    view = View(height, width, (max(1, 32 * height // max(height, width)), max(1, 32 * width // max(height, width))),
                (0, 0), False, (32, 32))  # fmt: skip
    tiles = cut_tiles(np.full((height, width, 3), 200, np.uint8), view, WHOLE, PARAMS)
    assert len(tiles.squares) == len(tiles.windows) > 0
    assert all((square[:h, :w] == 200).all() for square, (h, w) in zip(tiles.squares, tiles.contents, strict=True))


@pytest.mark.parametrize(
    ("shown", "windows"),
    [
        ((0, 0, 32, 32), [0, 1, 2, 3]),
        ((0, 0, 10, 32), [0, 1]),
        ((22, 0, 32, 10), [2]),
        ((13, 13, 14, 14), [0, 1, 2, 3]),
        ((0, 0, 0, 0), []),
    ],
)
def test_a_window_that_the_student_does_not_see_is_not_cut(shown, windows):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    every, some = (cut_tiles(image, weak_view(64, 64), box, PARAMS) for box in (WHOLE, shown))
    assert some.windows == tuple(every.windows[k] for k in windows)
    assert all(np.array_equal(square, every.squares[k]) for square, k in zip(some.squares, windows, strict=True))
    assert len(some.contents) == len(windows)


def test_a_pair_brings_tiles_if_they_are_wanted(tiny):
    none = tiny.dataset(PairDataset)
    some = tiny.dataset(PairDataset, tiles=PARAMS)
    one, other = none[0, 1][1], some[0, 1][1]
    assert one.tiles.squares == ()
    assert len(other.tiles.squares) == 4
    assert np.array_equal(one.weak_HW3, other.weak_HW3)
    assert np.array_equal(one.strong.image_HW3, other.strong.image_HW3)
    assert none.collate([none[0, 0]]).batch.tiles_U3SS() is None
    batch = some.collate([some[0, 0], some[0, 1]]).batch
    squares = [square for k in range(2) for square in some[0, k][1].tiles.squares]
    expected = (np.stack(squares) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(batch.to("cpu").tiles_U3SS(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert len(batch.pairs[0].tiles.windows) == 4
