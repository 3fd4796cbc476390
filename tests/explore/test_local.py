from __future__ import annotations

import numpy as np
import pytest

from sohes.explore.local import crop_boxes, local_regions, place, square, view_sides
from sohes.params import ExploreParams, load_params


@pytest.fixture
def params(repository) -> ExploreParams:
    values = {"crop_size": 16, "min_crop": 16, "theta_merge": (0.6, 0.1), "nms_iou": 0.9, "normalise": False}
    return load_params(repository / "params.yaml").explore.model_copy(update=values)


def pixels_as_features(images: list[np.ndarray]) -> list[np.ndarray]:
    """Two by two pixels are a patch, its feature a unit vector that the red channel turns."""
    red = [image[1::2, 1::2, 0].astype(np.float32) * np.pi / 510 for image in images]
    return [np.stack([np.cos(angle), np.sin(angle)], -1) for angle in red]


# ---------------------------------------------------------------- crops


def crops(*boxes: tuple[int, int, int, int], image_hw: tuple[int, int] = (200, 300), min_crop: int = 20) -> list:
    return crop_boxes(np.array(boxes).reshape(-1, 4), image_hw=image_hw, min_crop=min_crop).tolist()


def test_a_crop_is_a_square_of_twice_the_longer_side() -> None:
    assert crops((100, 100, 110, 130)) == [[75, 85, 135, 145]]


def test_a_small_box_gets_the_smallest_crop() -> None:
    assert crops((100, 100, 104, 104)) == [[92, 92, 112, 112]]


def test_a_crop_is_moved_into_the_image() -> None:
    assert crops((0, 0, 10, 30)) == [[0, 0, 60, 60]]
    assert crops((190, 280, 200, 300)) == [[160, 260, 200, 300]]


def test_a_crop_is_never_larger_than_the_image() -> None:
    assert crops((90, 10, 100, 190)) == [[0, 0, 200, 300]]
    assert crops((2, 2, 4, 4), image_hw=(10, 50)) == [[0, 0, 10, 20]]


def test_crops_that_see_the_same_place_are_shared() -> None:
    assert crops((100, 100, 110, 110), (100, 100, 110, 110), (101, 102, 109, 108)) == [[95, 95, 115, 115]]
    assert crops((100, 100, 110, 110), (100, 118, 110, 128)) == [[95, 95, 115, 115], [95, 113, 115, 133]]


def test_the_larger_of_two_shared_crops_is_kept() -> None:
    assert crops((103, 103, 113, 113), (100, 100, 114, 114)) == [[93, 93, 121, 121]]


def test_a_shared_crop_shows_the_whole_box() -> None:
    found = crops((100, 100, 112, 112), (100, 107, 112, 119))  # the IoU is 0.55, but the first crop ends at 118
    assert found == [[94, 94, 118, 118], [94, 101, 118, 125]]


def test_no_boxes_no_crops() -> None:
    assert crops() == []


# ---------------------------------------------------------------- placing


def test_masks_are_laid_where_the_crop_was() -> None:
    grid = np.array([[[True, False], [False, True]]])
    placed = place(grid, np.array([2, 1, 6, 5]), image_hw=(8, 8), size=(8, 8))
    expected = np.zeros((8, 8), bool)
    expected[2:4, 1:3] = expected[4:6, 3:5] = True
    np.testing.assert_array_equal(placed.unpacked()[0], expected)


def test_a_picture_may_be_smaller_than_the_image() -> None:
    grid = np.ones((1, 2, 2), bool)
    placed = place(grid, np.array([4, 8, 8, 16]), image_hw=(16, 16), size=(4, 4))
    assert np.argwhere(placed.unpacked()[0]).tolist() == [[1, 2], [1, 3]]
    # a crop that no pixel's centre falls into leaves nothing
    assert not place(grid, np.array([0, 0, 1, 1]), image_hw=(16, 16), size=(4, 4)).words.any()


@pytest.mark.parametrize("size", [(7, 9), (3, 5), (20, 11)])
def test_a_partition_of_the_grid_is_a_partition_of_the_picture(size: tuple[int, int]) -> None:
    grid = np.arange(12).reshape(3, 4) == np.arange(12)[:, None, None]
    placed = place(grid, np.array([0, 0, 50, 60]), image_hw=(50, 60), size=size)
    np.testing.assert_array_equal(placed.unpacked().sum(0), np.ones(size))


def test_square_averages_where_it_shrinks() -> None:
    chequered = np.indices((8, 12)).sum(0) % 2 * 255
    view = square(np.repeat(chequered[..., None], 3, 2).astype(np.uint8), 4)
    assert view.shape == (4, 4, 3)
    assert np.ptp(view.astype(int)) <= 86  # of 255: 8 of 12 pixels are averaged over 3, where a third is the step


# ---------------------------------------------------------------- step 2


def test_local_regions_are_found_and_those_that_are_cut_are_dropped(params: ExploreParams) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[28:34, 28:34] = 250  # wholly inside the crop of its box
    image[36:64, 30:36] = 200  # leaves the crop at the bottom
    extract_calls = []

    def extract(images: list[np.ndarray]) -> list[np.ndarray]:
        extract_calls.append([view.shape for view in images])
        return pixels_as_features(images)

    found = local_regions(image, np.array([[28, 28, 34, 34]]), extract, params, size=(64, 64))
    assert extract_calls == [[(16, 16, 3)]]
    assert found.sources.tolist() == ["local"]
    expected = np.zeros((64, 64), bool)
    expected[27:33, 27:33] = True  # the crop begins at 23, so its patches of two begin at odd pixels
    np.testing.assert_array_equal(found.masks.unpacked(), [expected])


def test_without_small_regions_there_is_nothing_local(params: ExploreParams) -> None:
    found = local_regions(
        np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4), np.int64), pixels_as_features, params, size=(8, 8)
    )
    assert found.masks.unpacked().shape == (0, 8, 8)
    assert len(found) == 0


def test_larger_crops_are_looked_at_twice_as_closely_as_the_whole_image_or_not_at_all() -> None:
    crops_M4 = np.array([[0, 0, 30, 30], [0, 0, 60, 60], [10, 10, 110, 130], [0, 0, 300, 300], [0, 0, 400, 400]])
    sides = view_sides(crops_M4, 0.5, crop_size=64, image_size=200)
    assert sides.tolist() == [64, 64, 128, 0, 0]  # seen 15, 30, 60, 150 and 200 pixels large there
    assert view_sides(crops_M4, 0.5, crop_size=64, image_size=256).tolist() == [64, 64, 128, 256, 0]
