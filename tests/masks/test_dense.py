from __future__ import annotations

import numpy as np
from drawings import THREE, drawn, random_masks
from hypothesis import given, settings

from sohes import masks


def test_bounding_boxes() -> None:
    assert masks.bounding_boxes(THREE).tolist() == [[0, 0, 2, 2], [0, 1, 2, 3], [0, 0, 3, 4]]
    assert masks.bounding_boxes(drawn("... ...")).tolist() == [[0, 0, 0, 0]]


def test_no_masks_share_nothing() -> None:
    assert masks.intersections(np.zeros((0, 3, 5), bool)).shape == (0, 0)


def test_intersections_of_a_drawing() -> None:
    np.testing.assert_array_equal(masks.intersections(THREE), [[4, 2, 4], [2, 4, 4], [4, 4, 10]])


@settings(max_examples=100, deadline=None)
@given(random_masks())
def test_intersections_are_the_matrix_product(found: np.ndarray) -> None:
    flat = found.reshape(len(found), -1).astype(np.int64)
    np.testing.assert_array_equal(masks.intersections(found), flat @ flat.T)


def test_iou() -> None:
    iou = masks.iou_from_intersections(masks.intersections(THREE))
    np.testing.assert_allclose(iou, [[1, 1 / 3, 0.4], [1 / 3, 1, 0.4], [0.4, 0.4, 1]])
    assert masks.iou_from_intersections(np.zeros((2, 2), np.int64)).tolist() == [[0, 0], [0, 0]]


def test_nms_keeps_the_first_of_those_alike() -> None:
    iou = np.array([[1, 0.8, 0.1], [0.8, 1, 0.5], [0.1, 0.5, 1]])
    assert masks.nms_from_iou(iou, np.array([0, 1, 2]), nms_iou=0.6).tolist() == [0, 2]
    assert masks.nms_from_iou(iou, np.array([1, 0, 2]), nms_iou=0.6).tolist() == [1, 2]
    assert masks.nms_from_iou(iou, np.array([2, 1, 0]), nms_iou=0.4).tolist() == [2, 0]
    assert masks.nms_from_iou(iou, np.array([0, 1, 2]), nms_iou=0.8).tolist() == [0, 1, 2]  # at the limit is allowed
    assert masks.nms_from_iou(iou, np.zeros(0, np.int64), nms_iou=0.5).tolist() == []


def test_a_suppressed_mask_suppresses_nothing() -> None:
    iou = np.array([[1, 0.7, 0], [0.7, 1, 0.7], [0, 0.7, 1]])
    assert masks.nms_from_iou(iou, np.arange(3), nms_iou=0.5).tolist() == [0, 2]
