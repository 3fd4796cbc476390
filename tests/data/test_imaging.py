import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sohes.data.imaging import PADDING_RGB, encode_jpeg, encode_png, fit, letterbox, letterbox_size, shrunk
from sohes.errors import SohesError

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


def test_an_image_is_reduced_by_its_longer_or_its_shorter_side_and_never_enlarged() -> None:
    image = np.zeros((30, 40, 3), np.uint8)
    assert fit(image, 20).shape == (15, 20, 3)
    assert fit(image, 40) is image
    assert shrunk(image, 15).shape == (15, 20, 3)
    assert shrunk(image, 31) is image
    assert fit(np.zeros((1, 100, 3), np.uint8), 10).shape == (1, 10, 3)


def test_png_keeps_every_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    back = cv2.imdecode(np.frombuffer(encode_png(image), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize(("encode", "width"), [(encode_jpeg, 65_501), (encode_png, 1_000_001)])
def test_sides_that_a_format_has_no_place_for_are_named(encode, width: int) -> None:
    with pytest.raises(SohesError, match=rf"cannot hold an image of {width} x 1 pixels"):
        encode(np.zeros((1, width, 3), np.uint8))
