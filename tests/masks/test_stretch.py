from __future__ import annotations

import numpy as np
import pytest
from drawings import blobs

from sohes import masks
from sohes.masks.packed import PackedMasks, pack
from sohes.masks.stretch import as_packed, encode_stretched, packed_at


@pytest.fixture(params=[(40, 64), (37, 150), (70, 63), (5, 200)])
def drawn(request) -> np.ndarray:
    return blobs(24, *request.param)


def stretched(drawn_NHW: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = ((np.arange(height) + 0.5) * drawn_NHW.shape[1] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * drawn_NHW.shape[2] / width).astype(int)
    return drawn_NHW[:, rows][:, :, columns]


def test_run_lengths_are_pycocotools(drawn: np.ndarray) -> None:
    assert encode_stretched(pack(drawn, size=drawn.shape[1:]), drawn.shape[1:]) == masks.encode(drawn)


@pytest.mark.parametrize("factor", [0.4, 0.99, 1.5, 2.3])
def test_run_lengths_of_another_size(drawn: np.ndarray, factor: float) -> None:
    height, width = (round(side * factor) for side in drawn.shape[1:])
    found = encode_stretched(pack(drawn, size=drawn.shape[1:]), (height, width))
    assert found == masks.encode(stretched(drawn, height, width))


def test_a_mask_set_is_packed_as_it_is(drawn: np.ndarray) -> None:
    np.testing.assert_array_equal(as_packed(masks.mask_set(drawn)).unpacked(), drawn)


def test_noise_has_the_longest_run_lengths() -> None:
    drawn = np.random.default_rng(0).random((3, 61, 131)) < 0.5
    assert encode_stretched(pack(drawn, size=(61, 131)), (61, 131)) == masks.encode(drawn)


def test_no_masks_are_no_run_lengths() -> None:
    nothing = PackedMasks((4, 5), np.zeros((0, 4), np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    assert encode_stretched(nothing, (8, 10)) == ()


@pytest.mark.parametrize("factor", [0.4, 0.99, 1, 1.5])
def test_run_lengths_packed_at_another_size_are_the_nearest_pixels(drawn: np.ndarray, factor: float) -> None:
    drawn[3] = False  # an empty mask stays one
    size = (round(drawn.shape[1] * factor), round(drawn.shape[2] * factor))
    rows, columns = masks.nearest(drawn.shape[1], size[0]), masks.nearest(drawn.shape[2], size[1])
    packed = packed_at(masks.mask_set(drawn), size)
    np.testing.assert_array_equal(packed.unpacked(), drawn[:, rows][:, :, columns])
