"""Letterbox: an image fitted into a square, its longer side filled, padded at the bottom and on the right.

Training, prediction and phase 3 share this geometry, so that a mask found in the square finds its way back.
Pixel centres are aligned (a pixel covers [i, i + 1)), as in torch's `interpolate(align_corners=False)`.
"""

from __future__ import annotations

import cv2
import numpy as np

PADDING_RGB = (124, 116, 104)  # ImageNet's mean colour: close to zero once normalised


def letterbox_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """(h, w) of an image's content in the square: the longer side is `image_size`, the other at least one pixel."""
    if min(height, width, image_size) < 1:
        raise ValueError(f"sides must be positive (got {height} x {width} into {image_size})")
    longer = max(height, width)
    h, w = (max(1, (2 * side * image_size + longer) // (2 * longer)) for side in (height, width))
    return h, w


def letterbox(image_HW3: np.ndarray, image_size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The (S, S, 3) uint8 square of an image, and the (h, w) of its content."""
    h, w = letterbox_size(image_HW3.shape[0], image_HW3.shape[1], image_size)
    square = np.empty((image_size, image_size, 3), np.uint8)
    square[:] = PADDING_RGB
    square[:h, :w] = _resize(image_HW3, h, w)
    return square, (h, w)


def letterbox_masks(masks_NHW: np.ndarray, image_size: int) -> np.ndarray:
    """(N, S, S) bool: the pixels of the square of which a mask covers at least half; the padding is in none."""
    n, height, width = masks_NHW.shape
    h, w = letterbox_size(height, width, image_size)
    squares = np.zeros((n, image_size, image_size), bool)
    for mask, square in zip(masks_NHW, squares, strict=True):
        square[:h, :w] = _resize(mask.astype(np.float32), h, w) >= 0.5
    return squares


def unletterbox(square: np.ndarray, content_hw: tuple[int, int], image_hw: tuple[int, int]) -> np.ndarray:
    """A square's content, (S, S) or (S, S, 3) uint8 or float32, at the image's size. `content_hw` in its pixels."""
    h, w = content_hw
    return _resize(square[:h, :w], *image_hw)


def unletterbox_masks(masks_NSS: np.ndarray, content_hw: tuple[int, int], image_hw: tuple[int, int]) -> np.ndarray:
    """(N, H, W) bool masks of the image from (N, S, S) bool masks of its square."""
    masks = np.zeros((len(masks_NSS), *image_hw), bool)
    for square, mask in zip(masks_NSS, masks, strict=True):
        mask[:] = unletterbox(square.astype(np.float32), content_hw, image_hw) >= 0.5
    return masks


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    # Averaging over areas keeps thin parts and does not alias; it has no meaning when enlarging.
    method = cv2.INTER_AREA if height * width < image.shape[0] * image.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method)
