from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawings import THREE, random_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sohes import masks
from sohes.masks.rle import compressed
from sohes.structures import MaskSet


@settings(deadline=None)  # the first call compiles
@given(random_masks(), st.integers(1, 40), st.integers(1, 200))
def test_a_sampled_mask_is_the_decoded_one_resized(found, height, width):
    masks_of = masks.mask_set(found)
    rows, columns = masks.nearest(found.shape[1], height), masks.nearest(found.shape[2], width)
    for i, mask in enumerate(found):
        resized = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        assert np.array_equal(masks.sample(masks_of, i, rows, columns), resized)


@settings(deadline=None)  # the first call compiles
@given(random_masks())
def test_a_sampled_window_is_that_of_the_decoded_mask(found):
    masks_of = masks.mask_set(found)
    rows, columns = np.arange(found.shape[1] // 3, found.shape[1]), np.arange(found.shape[2] // 4, found.shape[2])
    for i, mask in enumerate(found):
        assert np.array_equal(masks.sample(masks_of, i, rows, columns), mask[rows[0] :, columns[0] :])


def test_a_mask_set_packs_and_unpacks() -> None:
    packed = masks.mask_set(THREE, parents=np.array([2, 2, -1]), sources=["local", "local", "global"])
    assert (packed.height, packed.width, len(packed)) == (4, 4, 3)
    np.testing.assert_array_equal(masks.decode(packed), THREE)
    np.testing.assert_array_equal(packed.scores, np.ones(3, np.float32))
    assert packed.sources == ("local", "local", "global")
    assert masks.mask_set(THREE, sources="x").sources == ("x", "x", "x")
    np.testing.assert_array_equal(masks.mask_set(THREE).parents, [-1, -1, -1])


@settings(max_examples=50, deadline=None)
@given(random_masks())
def test_run_lengths_are_cocos_and_survive_the_round_trip(found: np.ndarray) -> None:
    packed = masks.mask_set(found)
    alone = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in found]
    assert list(packed.rles) == alone
    np.testing.assert_array_equal(masks.decode(packed), found)
    np.testing.assert_array_equal(masks.areas(packed), found.sum((1, 2)))


def test_a_mask_set_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 masks"):
        MaskSet(2, 2, (b"04",), np.ones(2, np.float32), np.full(1, -1), ("",))


def test_areas_and_boxes() -> None:
    packed = masks.mask_set(THREE)
    assert masks.areas(packed).tolist() == [4, 4, 10]
    assert masks.boxes_xywh(packed).tolist() == [[0, 0, 2, 2], [1, 0, 2, 2], [0, 0, 4, 3]]


def test_an_image_without_masks() -> None:
    nothing = masks.empty_mask_set(3, 5)
    assert (len(nothing), nothing.height, nothing.width) == (0, 3, 5)
    assert masks.decode(nothing).shape == (0, 3, 5)
    assert masks.areas(nothing).shape == (0,)
    assert masks.boxes_xywh(nothing).shape == (0, 4)


@settings(max_examples=50, deadline=None)  # the first call compiles
@given(random_masks())
def test_the_letters_of_changes_are_cocos(found: np.ndarray) -> None:
    for mask, rle in zip(found, masks.encode(found), strict=True):
        down_columns = np.concatenate([[False], mask.T.ravel(), [False]])
        changes = np.flatnonzero(down_columns[1:] != down_columns[:-1])
        assert compressed(changes, mask.size).tobytes() == rle
