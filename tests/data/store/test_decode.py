import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sohes.data.store.decode import UnreadableImage, decode_image, decode_stored

# Twelve wide, nine high, so that a turned image shows; the left half red, the right half blue.
RED_BLUE = np.zeros((9, 12, 3), np.uint8)
RED_BLUE[:, :6, 0] = RED_BLUE[:, 6:, 2] = 255


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes, apply_exif: bool = True) -> np.ndarray:
    return decode_image(data, max_megapixels=1, apply_exif=apply_exif)


def why_not(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decoded(data)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and has none: whoever decodes it runs out of data, or of memory."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(100))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_their_pixels(format: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(RED_BLUE), format)), RED_BLUE)


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"subsampling": 0}), ("WEBP", {}), ("MPO", {"subsampling": 0})]
)
def test_lossy_formats_are_read(format: str, options: dict) -> None:
    image = decoded(encoded(Image.fromarray(RED_BLUE), format, quality=95, **options))
    assert np.abs(image[:, [0, -1]].astype(int) - RED_BLUE[:, [0, -1]]).max() < 60
    assert image.shape == (9, 12, 3)
    assert image.dtype == np.uint8


def test_two_pictures_in_one_jpeg_give_the_first() -> None:
    first, second = Image.new("RGB", (12, 9), "red"), Image.new("RGB", (12, 9), "blue")
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decoded(data)[0, 0, 0] > 200


def test_what_is_not_an_image_is_named() -> None:
    assert why_not(b"") == "the file is empty"
    assert "not an image" in why_not(b"<html>not found</html>")
    assert "not an image" in why_not(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n"
    )  # would start Ghostscript


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_truncated_images_are_rejected(format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format)
    assert why_not(data[: int(len(data) * kept)]).startswith(("damaged", "not an image"))


def test_damage_in_the_middle_is_rejected() -> None:
    data = bytearray(encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))))
    data[len(data) // 2] ^= 0xFF
    assert why_not(bytes(data)).startswith("damaged")


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    np.testing.assert_array_equal(decoded(data), np.full((9, 12, 3), (255, 0, 0)))


def test_printing_colours_become_red_green_blue() -> None:
    cyan = decoded(encoded(Image.new("CMYK", (12, 9), (255, 0, 0, 0)), "JPEG", quality=95))
    assert cyan[0, 0, 0] < 30
    assert cyan[0, 0, 1:].min() > 200


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_scale(format: str) -> None:
    steps = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (9, 1))
    image = decoded(encoded(Image.fromarray(steps), format))
    np.testing.assert_array_equal(image[0, :, 0], np.arange(256))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_pixels_of_unknown_range_are_rejected() -> None:
    assert "floating-point" in why_not(encoded(Image.new("F", (12, 9), 0.5), "TIFF"))
    assert "from 70000 to 70000" in why_not(encoded(Image.new("I", (12, 9), 70000), "TIFF"))


def test_grey_and_black_and_white_get_three_channels() -> None:
    np.testing.assert_array_equal(decoded(encoded(Image.new("L", (12, 9), 77))), np.full((9, 12, 3), 77))
    np.testing.assert_array_equal(decoded(encoded(Image.new("1", (12, 9), 1))), np.full((9, 12, 3), 255))


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (12, 9), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    image = decoded(encoded(clear))
    np.testing.assert_array_equal(image[0, 0], (255, 0, 0))
    np.testing.assert_array_equal(image[1, 1], (255, 255, 255))
    half = decoded(encoded(Image.new("LA", (12, 9), (0, 128))))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_a_palette_gives_its_colours_and_its_transparent_entry_white() -> None:
    palette = Image.fromarray(RED_BLUE).quantize(4, dither=Image.Dither.NONE)
    np.testing.assert_array_equal(decoded(encoded(palette)), RED_BLUE)
    red = palette.getpixel((0, 0))
    image = decoded(encoded(palette, transparency=red))
    np.testing.assert_array_equal(image[0, 0], (255, 255, 255))
    np.testing.assert_array_equal(image[0, 11], (0, 0, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photograph_upright_or_is_ignored(orientation: int) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)  # four grey quarters, each of them told apart after any turn
    stored[:8, :16], stored[:8, 16:], stored[8:, :16], stored[8:, 16:] = 0, 80, 160, 240
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), "JPEG", exif=exif, quality=100, subsampling=0)
    # The tag says which side of the scene the stored first row and first column are (Exif 2.3, tag 274).
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert decoded(data, apply_exif=True).shape == upright.shape
    assert np.abs(decoded(data, apply_exif=True).astype(int) - upright).max() < 8
    assert np.abs(decoded(data, apply_exif=False).astype(int) - stored).max() < 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 9, 0])
def test_stored_pixels_come_with_the_orientation_that_is_left_to_apply(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RED_BLUE), format, exif=exif)
    pixels, left = decode_stored(data, max_megapixels=1)
    np.testing.assert_array_equal(pixels, decoded(data, apply_exif=False))
    assert left == (orientation if orientation in (3, 6) and format != "TIFF" else 1)  # a TIFF is upright already


def test_damaged_exif_does_not_cost_the_photograph() -> None:
    data = encoded(Image.fromarray(RED_BLUE), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert decoded(data).shape == (9, 12, 3)


def test_what_a_png_holds_beside_its_pixels_does_not_cost_the_photograph() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("history", "A" * 2_000_000, zip=True)
    info.add_itxt("prompt", "é" * 2_000_000, zip=True)
    info.add_text("plain", "A" * 2_000_000)
    profile = bytes(3_000_000)
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(RED_BLUE), pnginfo=info, icc_profile=profile)), RED_BLUE
    )
    bomb = PngImagePlugin.PngInfo()
    bomb.add_text("bomb", "A" * 2**27, zip=True)
    assert "too large" in why_not(encoded(Image.fromarray(RED_BLUE), pnginfo=bomb))


def test_size_limits() -> None:
    assert "too small: 1 x 1" in why_not(encoded(Image.new("RGB", (1, 1))))
    assert "too small: 7 x 300" in why_not(encoded(Image.new("RGB", (7, 300))))
    assert decoded(encoded(Image.new("RGB", (8, 8)))).shape == (8, 8, 3)
    assert "too long: 65501 x 8" in why_not(encoded(Image.new("1", (65501, 8))))
    assert "too large: 1001 x 1000" in why_not(encoded(Image.new("1", (1001, 1000))))


def test_a_huge_image_is_rejected_by_its_header() -> None:
    data = png_header(20_000, 10_000)
    with pytest.raises(UnreadableImage, match=r"200\.0 megapixels \(max 100\)"):
        decode_image(data, max_megapixels=100, apply_exif=True)
    with pytest.raises(UnreadableImage, match="damaged"):  # the limit is ours alone: a larger one lets it pass
        decode_image(data, max_megapixels=201, apply_exif=True)
