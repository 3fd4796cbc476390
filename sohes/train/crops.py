"""The views that DINO compares: large and small crops of one image, differently coloured. Pure functions.

Geometry and colours as in Caron et al. (2021), appendix on augmentation; uint8 (H, W, 3) RGB in and out.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

GLOBAL_AREA = (0.4, 1.0)  # of the image
LOCAL_AREA = (0.05, 0.4)
ASPECT = (3 / 4, 4 / 3)
BLUR = (1.0, 0.1)  # probability for the first and the second global crop
LOCAL_BLUR = 0.5
SOLARISE = (0.0, 0.2)


def multi_crop(
    rng: np.random.Generator, image_HW3: np.ndarray, *, global_size: int, local_size: int, local_crops: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two global crops of side `global_size` and `local_crops` local ones of side `local_size`."""
    large = [
        _colour(rng, random_crop(rng, image_HW3, global_size, GLOBAL_AREA), blur=BLUR[k], solarise=SOLARISE[k])
        for k in range(2)
    ]
    small = [
        _colour(rng, random_crop(rng, image_HW3, local_size, LOCAL_AREA), blur=LOCAL_BLUR, solarise=0.0)
        for _ in range(local_crops)
    ]
    return large, small


def random_crop(rng: np.random.Generator, image_HW3: np.ndarray, size: int, area: tuple[float, float]) -> np.ndarray:
    """A random part of the image, resized to a square and mirrored half of the time. area: of the image."""
    height, width = image_HW3.shape[:2]
    share = rng.uniform(*area) * height * width
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    h = min(height, max(1, round(math.sqrt(share / aspect))))
    w = min(width, max(1, round(math.sqrt(share * aspect))))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = image_HW3[y : y + h, x : x + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    shrinks = h > size and w > size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _colour(rng: np.random.Generator, image_HW3: np.ndarray, *, blur: float, solarise: float) -> np.ndarray:
    """Jitter (0.8), greyscale (0.2), blur and solarisation, each with its probability."""
    chances = rng.random(4)
    brightness, contrast, saturation = rng.uniform((0.6, 0.6, 0.8), (1.4, 1.4, 1.2))
    hue = round(rng.uniform(-0.1, 0.1) * 180)  # OpenCV's unit for uint8: two degrees
    sigma = rng.uniform(0.1, 2.0)
    if chances[0] < 0.8:
        image_HW3 = _jitter(image_HW3, brightness, contrast, saturation, hue)
    if chances[1] < 0.2:
        image_HW3 = np.repeat(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if chances[2] < blur:
        image_HW3 = cv2.GaussianBlur(image_HW3, (0, 0), sigma)
    if chances[3] < solarise:
        image_HW3 = np.where(image_HW3 < 128, image_HW3, 255 - image_HW3)
    return image_HW3


def _jitter(image_HW3: np.ndarray, brightness: float, contrast: float, saturation: float, hue: int) -> np.ndarray:
    values = image_HW3.astype(np.float32) * np.float32(brightness)
    middle = values.mean()
    values = middle + np.float32(contrast) * (values - middle)
    grey = values @ np.array((0.299, 0.587, 0.114), np.float32)
    values = grey[..., None] + np.float32(saturation) * (values - grey[..., None])
    hsv = cv2.cvtColor(np.clip(values, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
