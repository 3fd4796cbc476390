from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from skimage.measure import euler_number, label, points_in_poly

from sohes.data.exchange.outlines import KEPT_IOU, bridged, part_polygons, rings
from sohes.masks import mask_set


def filled(corners_K2: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres a polygon holds, by the even-odd rule, as scikit-image counts it."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel(), rows.ravel()], 1) + 0.5
    return points_in_poly(centres, corners_K2).reshape(shape)


def winding(corners_K2: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) how often a closed line on the grid goes round each pixel: its vertical pieces on the left."""
    times = np.zeros((shape[0], shape[1] + 1), np.int64)
    for (x, y), (x1, y1) in zip(corners_K2, np.roll(corners_K2, -1, axis=0), strict=True):
        if x == x1:
            times[min(y, y1) : max(y, y1), x] += np.sign(y - y1)
    return times.cumsum(1)[:, :-1]


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st_numpy.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_draw_the_mask_exactly(mask_HW: np.ndarray) -> None:
    """Each goes round its pixels once: outer ones forwards, holes backwards, and none cuts into another."""
    found = rings(mask_HW)
    if not mask_HW.any():
        assert found == []
        return
    np.testing.assert_array_equal(sum(winding(ring, mask_HW.shape) for ring in found), mask_HW)
    for ring in found:
        steps = np.abs(np.roll(ring, -1, axis=0) - ring)
        assert ((steps == 0).sum(1) == 1).all()  # straight, and never in place
    np.testing.assert_array_equal(filled(bridged(found), mask_HW.shape), mask_HW)


def blobs(seed: int) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((320, 400)).astype(np.float32), (0, 0), 12)
    return noise > noise.mean()


@pytest.mark.parametrize("seed", range(3))
def test_a_polygon_a_part_with_its_holes_and_few_corners(seed: int) -> None:
    mask_HW = blobs(seed)
    (polygons,) = part_polygons(mask_set(mask_HW[None]))
    assert len(polygons) == label(mask_HW, connectivity=2).max()
    assert euler_number(mask_HW, connectivity=2) < len(polygons), "no part has a hole: take another seed"
    drawn = np.logical_or.reduce([filled(polygon, mask_HW.shape) for polygon in polygons])
    assert (drawn & mask_HW).sum() / (drawn | mask_HW).sum() > KEPT_IOU - 0.005
    assert sum(map(len, polygons)) < sum(map(len, rings(mask_HW))) / 2


def test_a_mask_without_a_pixel_has_no_polygon() -> None:
    masks = mask_set(np.stack([np.zeros((5, 6), bool), np.ones((5, 6), bool)]))
    nothing, everything = part_polygons(masks)
    assert nothing == []
    assert {tuple(corner) for corner in everything[0].tolist()} == {(0, 0), (6, 0), (6, 5), (0, 5)}
