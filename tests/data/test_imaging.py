import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sohes.data.imaging import PADDING_RGB, letterbox, letterbox_masks, letterbox_size, unletterbox, unletterbox_masks

SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (144, 192)), (640, 480, (192, 144)), (10, 10, (192, 192)), (1, 1000, (1, 192)), (3, 384, (2, 192))],
)
def test_the_longer_side_is_filled(height: int, width: int, expected: tuple[int, int]) -> None:
    assert letterbox_size(height, width, 192) == expected


@given(SIDES, SIDES, st.integers(1, 2048))
def test_the_content_fits_and_keeps_its_shape(height: int, width: int, image_size: int) -> None:
    h, w = letterbox_size(height, width, image_size)
    assert max(h, w) == image_size
    assert min(h, w) >= 1
    assert (h, w) == letterbox_size(width, height, image_size)[::-1]
    for side, fitted in ((height, h), (width, w)):
        assert abs(fitted - side * image_size / max(height, width)) <= 0.5 or fitted == 1


def test_sides_must_be_positive() -> None:
    with pytest.raises(ValueError, match="got 0 x 5 into 10"):
        letterbox_size(0, 5, 10)


def test_the_padding_is_below_and_on_the_right() -> None:
    wide, content = letterbox(np.full((4, 8, 3), 9, np.uint8), 16)
    assert content == (8, 16)
    assert (wide[:8] == 9).all()
    assert (wide[8:] == PADDING_RGB).all()
    high, content = letterbox(np.full((8, 4, 3), 9, np.uint8), 16)
    assert content == (16, 8)
    assert (high[:, :8] == 9).all()
    assert (high[:, 8:] == PADDING_RGB).all()


def test_shrinking_averages_and_an_image_of_the_right_size_stays() -> None:
    checks = np.indices((8, 8)).sum(0) % 2 * 200
    image = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    assert (letterbox(image, 4)[0] == 100).all()
    np.testing.assert_array_equal(letterbox(image, 8)[0], image)


def test_a_mask_keeps_the_cells_that_it_covers_at_least_half() -> None:
    mask = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], bool)  # cells of 2 x 2: half covered, a quarter covered
    np.testing.assert_array_equal(letterbox_masks(mask[None], 2)[0], [[True, False], [False, False]])
    assert letterbox_masks(np.zeros((0, 4, 4), bool), 2).shape == (0, 2, 2)


def test_masks_and_images_share_the_geometry() -> None:
    mask = np.zeros((30, 50), bool)
    mask[7:19, 11:33] = True
    square, (h, w) = letterbox(np.repeat(mask[..., None], 3, 2).astype(np.uint8) * 255, 64)
    np.testing.assert_array_equal(square[:h, :w, 0] >= 128, letterbox_masks(mask[None], 64)[0, :h, :w])


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (200, 120), (64, 64)])
def test_the_way_back(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[shape[0] // 4 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
    content = letterbox_size(*shape, 64)
    back = unletterbox_masks(letterbox_masks(mask[None], 64), content, shape)[0]
    assert (back & mask).sum() / (back | mask).sum() > 0.85
    scores = np.full((64, 64), 7, np.float32)
    scores[content[0] :] = scores[:, content[1] :] = 99  # nothing of the padding may leak in
    np.testing.assert_allclose(unletterbox(scores, content, shape), np.full(shape, 7), rtol=1e-6)
