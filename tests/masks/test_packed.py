from __future__ import annotations

import numpy as np
import pytest
from drawings import blobs

from sohes import masks
from sohes.masks import packed
from sohes.masks.packed import join, lay, pack


@pytest.fixture(params=[(40, 64), (37, 150), (70, 63), (5, 200)])
def drawn(request) -> np.ndarray:
    return blobs(24, *request.param)


def test_packing_loses_nothing(drawn: np.ndarray) -> None:
    found = pack(drawn, size=drawn.shape[1:])
    np.testing.assert_array_equal(found.unpacked(), drawn)
    np.testing.assert_array_equal(packed.areas(found), drawn.sum((1, 2)))
    assert found.words.nbytes < drawn.nbytes
    assert found.boxes_N4[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("origin", [(0, 1), (3, 63), (2, 64), (1, 130)])
def test_packing_at_an_origin_moves_the_masks(drawn: np.ndarray, origin: tuple[int, int]) -> None:
    _, height, width = drawn.shape
    size = (height + origin[0], width + origin[1])
    moved = np.pad(drawn, ((0, 0), (origin[0], 0), (origin[1], 0)))
    found, wanted = pack(drawn, size=size, origin=origin), pack(moved, size=size)
    np.testing.assert_array_equal(found.unpacked(), moved)
    np.testing.assert_array_equal(found.boxes_N4, wanted.boxes_N4)
    np.testing.assert_array_equal(found.words, wanted.words)


def test_a_window_may_lie_anywhere(drawn: np.ndarray) -> None:
    found = pack(drawn, size=drawn.shape[1:])
    for box in [(0, 0, 4, 9), (2, 17, 5, 40), (1, 5, 2, 63), (3, 60, 3, 60)]:
        for i, mask in enumerate(drawn):
            np.testing.assert_array_equal(found.window(i, box), mask[box[0] : box[2], box[1] : box[3]])


def test_selection_and_joining_keep_the_masks(drawn: np.ndarray) -> None:
    found = pack(drawn, size=drawn.shape[1:])
    some = np.array([7, 0, 3, 23])
    np.testing.assert_array_equal(found[some].unpacked(), drawn[some])
    np.testing.assert_array_equal(found[drawn.sum((1, 2)) > 50].unpacked(), drawn[drawn.sum((1, 2)) > 50])
    both = join([found[some], found], size=found.size)
    np.testing.assert_array_equal(both.unpacked(), np.concatenate([drawn[some], drawn]))
    assert len(join([], size=(3, 4))) == 0
    assert join([], size=(3, 4)).unpacked().shape == (0, 3, 4)


def test_masks_are_laid_where_they_belong() -> None:
    cells = np.array([[[True, False, True], [False, False, True]]])
    found = lay(cells, np.array([0, 0, 1]), np.array([0, 2, 2]), size=(6, 130), origin=(2, 126))
    expected = np.zeros((6, 130), bool)
    expected[2:4, 126:129] = True
    expected[4, 127:129] = True
    np.testing.assert_array_equal(found.unpacked()[0], expected)


def test_a_cell_without_a_pixel_leaves_none() -> None:
    cells = np.zeros((1, 3, 3), bool)
    cells[0, 1] = True
    found = lay(cells, np.array([0, 2]), np.arange(3), size=(10, 10), origin=(4, 4))
    assert packed.areas(found).tolist() == [0]


def test_counts_are_those_of_boolean_masks(drawn: np.ndarray) -> None:
    found = pack(drawn, size=drawn.shape[1:])
    np.testing.assert_array_equal(packed.intersections(found), masks.intersections(drawn))
    turned = drawn[::-1]
    shared = packed.overlaps(found, pack(turned, size=found.size))
    np.testing.assert_array_equal(shared, (drawn & turned).sum((1, 2)))


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.7, 0.9, 1.0])
def test_suppression_is_greedy_nms_without_empty_masks(nms_iou: float) -> None:
    drawn = np.concatenate([blobs(30, 60, 90, seed) for seed in range(2)])
    drawn = np.concatenate([drawn, np.roll(drawn, 1, 2), drawn[:9]])
    iou = masks.iou_from_intersections(masks.intersections(drawn))
    order = np.flatnonzero(drawn.any((1, 2)))
    expected = masks.nms_from_iou(iou, order, nms_iou=nms_iou)
    np.testing.assert_array_equal(packed.suppress(pack(drawn, size=(60, 90)), nms_iou=nms_iou), expected)


@pytest.mark.parametrize("min_iou", [0.0, 0.5, 0.9, 1.0])
def test_a_mask_that_changes_too_much_gives_way_to_the_other(drawn: np.ndarray, min_iou: float) -> None:
    others = np.roll(drawn, 1, 1)
    shared = (drawn & others).sum((1, 2))
    same = (shared > 0) & (shared >= min_iou * (drawn | others).sum((1, 2)))
    settled, alike = packed.settle(*(pack(some, size=drawn.shape[1:]) for some in (drawn, others)), min_iou=min_iou)
    np.testing.assert_array_equal(alike, same)
    np.testing.assert_array_equal(settled.unpacked(), np.where(same[:, None, None], drawn, others))
