import numpy as np
import pytest

from sohes.data.imaging import shrunk
from sohes.train.crops import GLOBAL_AREA, LOCAL_AREA, cached, multi_crop, random_crop


def _ramp(height=40, width=60):
    """Red tells the column, green the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width) * 4
    image[..., 1] = (np.arange(height) * 4)[:, None]
    return image


@pytest.mark.parametrize("area", [GLOBAL_AREA, LOCAL_AREA])
def test_a_crop_covers_its_share_of_the_image(area):
    rng = np.random.default_rng(0)
    shares, mirrored = [], 0
    for _ in range(200):
        crop = random_crop(rng, _ramp(), 16, area).astype(float)
        dx, dy = np.diff(crop[8, :, 0]).mean() / 4, np.diff(crop[:, 8, 1]).mean() / 4
        shares.append(abs(dx) * dy * 16 * 16 / (40 * 60))
        mirrored += dx < 0
    assert area[0] * 0.6 < min(shares) < area[0] * 1.6
    assert area[1] * 0.7 < max(shares) < area[1] * 1.2
    assert 70 < mirrored < 130


def test_multi_crop_has_two_large_and_the_small_ones_and_depends_on_the_generator_alone():
    first, again, other = (
        multi_crop(np.random.default_rng(s), _ramp(), global_size=32, local_size=16, local_crops=3) for s in (1, 1, 2)
    )
    assert [c.shape for c in first[0]] == [(32, 32, 3)] * 2
    assert [c.shape for c in first[1]] == [(16, 16, 3)] * 3
    assert all(c.dtype == np.uint8 for c in first[0] + first[1])
    assert all(np.array_equal(a, b) for a, b in zip(first[0] + first[1], again[0] + again[1], strict=True))
    assert not np.array_equal(first[0][0], other[0][0])
    assert not np.array_equal(first[0][0], first[0][1])


def test_an_image_smaller_than_a_crop_is_enlarged():
    crop = random_crop(np.random.default_rng(0), _ramp(8, 9), 32, GLOBAL_AREA)
    assert crop.shape == (32, 32, 3)


def test_a_photograph_is_shrunk_to_what_a_crop_needs():
    photograph = np.zeros((300, 400, 3), np.uint8)
    assert shrunk(photograph, 150).shape == (150, 200, 3)
    assert shrunk(photograph, 300) is photograph


def test_images_are_read_once_up_to_the_limit():
    read: list[int] = []

    def load(image_id: int) -> np.ndarray:
        read.append(image_id)
        return np.full((10, 10, 3), image_id, np.uint8)

    once = cached(load, limit=700)  # two of 300 bytes
    for image_id in (1, 2, 3, 1, 2, 3):
        assert once(image_id)[0, 0, 0] == image_id
    assert read == [1, 2, 3, 3]
