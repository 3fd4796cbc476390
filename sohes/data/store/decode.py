"""Photographs decoded and checked: an image file's bytes to RGB pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from sohes.errors import SohesError, first_sentence

MIN_SIDE = 8  # pixels: a smaller image has no patch to look at
MAX_MEGAPIXELS = 200  # of a photograph to segment: its pixels and its masks have to fit into memory
MAX_SIDE = 65_500  # what a JPEG can hold, in which photographs are shown beside their masks

# Only these decoders see untrusted bytes: others in Pillow start programs (EPS) or read drawings.
# A phone's multi-picture JPEG (MPO) is opened through JPEG and must not be listed.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# Pillow has its own guard against huge images; ours, `max_megapixels`, is checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# Tools write histories and profiles of megabytes into a PNG: one text may be as long as all together.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(SohesError):
    """An image that cannot be used; `reason` says why, without the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(data: bytes, *, max_megapixels: float, apply_exif: bool) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of an image file's bytes. UnreadableImage says why not.

    An animation gives its first frame, transparency is composited on white, 16-bit grey is scaled from its full range.
    `apply_exif` turns the image upright; without it the pixels stay as stored, the frame of COCO's annotations (a
    TIFF's own orientation is always applied).
    """
    with _opened(data) as image:
        return rgb_pixels(image, max_megapixels=max_megapixels, apply_exif=apply_exif)


def decode_stored(data: bytes, *, max_megapixels: float) -> tuple[np.ndarray, int]:
    """The pixels as `decode_image` gives them without EXIF, and the EXIF orientation, 1 (upright) to 8.

    From 5 on, height and width change places when the image is turned upright.
    """
    with _opened(data) as image:
        return rgb_pixels(image, max_megapixels=max_megapixels, apply_exif=False), _orientation(image)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise UnreadableImage("the file is empty")
    with _as_unreadable(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        yield image


def rgb_pixels(image: Image.Image, *, max_megapixels: float, apply_exif: bool) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a Pillow image, converted as `decode_image` says. UnreadableImage says why not."""
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"too small: {width} x {height} pixels, at least {MIN_SIDE} on each side are needed")
    check_size(width, height, max_megapixels)
    with _as_unreadable():
        image.load()
        return np.array(_rgb(_upright(image) if apply_exif else image))


@contextmanager
def _as_unreadable() -> Iterator[None]:
    """Whatever a decoder raises becomes an UnreadableImage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata; only the pixels matter
        try:
            yield
        except UnreadableImage:
            raise
        except UnidentifiedImageError:
            raise UnreadableImage(f"not an image, or none of {', '.join(_FORMATS)}") from None
        except Exception as error:  # decoders raise a dozen kinds of exceptions on damaged files
            detail = first_sentence(error)
            raise UnreadableImage(f"damaged: {detail}") from None


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """UnreadableImage for an image that is too large to be shown, or for memory."""
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"too long: {width} x {height} pixels, at most {MAX_SIDE} on each side can be shown")
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise UnreadableImage(f"too large: {width} x {height} are {megapixels:.1f} megapixels (max {max_megapixels:g})")


def _orientation(image: Image.Image) -> int:
    """Of a loaded image: a TIFF is upright then."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata around sound pixels: take the image as upright
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, of which the range is unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _grey_from_16_bits(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_from_16_bits(values_HW: np.ndarray) -> Image.Image:
    """8-bit grey; Pillow's own conversion clips at 255."""
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise UnreadableImage(f"integer pixels from {values_HW.min()} to {values_HW.max()}: save it with 8 or 16 bits")
    return Image.fromarray(((values_HW.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))
