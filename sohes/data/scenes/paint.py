"""Paint the embedded scenes: noise, patterns, soft light. Pure functions with the same bits on every machine.

Pixels are computed with integers and single IEEE additions and multiplications only: no BLAS, no transcendental
functions whose last bit depends on the processor, no OpenCV filters with a code path per instruction set.
"""

from __future__ import annotations

import cv2
import numpy as np

from sohes.data.scenes.families import Outline, Paint

OVERSAMPLING = 4  # coverage has 16 + 1 steps of 15 units, so that OpenCV's average is a whole number
FIXED_POINT = 6  # fractional bits of OpenCV's polygon corners


def coverage(outlines: tuple[Outline, ...], size: int) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
    """Coverage of the union of outlines in image pixels: ((h, w) uint8 in 0..240, (y0, x0, y1, x1)), clipped to
    the image; None if all of it is outside."""
    low = np.floor(np.min([o.min(0) for o in outlines], 0)).astype(int) - 1
    high = np.ceil(np.max([o.max(0) for o in outlines], 0)).astype(int) + 1
    (x0, y0), (x1, y1) = np.clip(low, 0, size), np.clip(high, 0, size)
    if x0 >= x1 or y0 >= y1:
        return None
    canvas = np.zeros(((y1 - y0) * OVERSAMPLING, (x1 - x0) * OVERSAMPLING), np.uint8)
    for outline in outlines:
        corners = (outline - (x0, y0)) * OVERSAMPLING - 0.5  # OpenCV's integer coordinates are pixel centres
        cv2.fillPoly(canvas, [np.rint(corners * 2**FIXED_POINT).astype(np.int32)], 240, shift=FIXED_POINT)
    small = cv2.resize(canvas, (int(x1 - x0), int(y1 - y0)), interpolation=cv2.INTER_AREA)
    return small, (int(y0), int(x0), int(y1), int(x1))


def box_blur(values_HW: np.ndarray, radius: int) -> np.ndarray:
    """Two passes of a (2 radius + 1)-wide mean, as exact integer sums. (H, W) uint8 -> (H + 4r, W + 4r) float32 in
    the same units: the image is blurred with zeros around it."""
    width, margin = 2 * radius + 1, 4 * radius
    h, w = values_HW.shape
    # Running sums may wrap around; their differences are right as long as 255 width^4 fits.
    whole: type = np.uint32 if width < 64 else np.uint64
    out = np.zeros((h + 2 * margin, w + 2 * margin), whole)
    out[margin : margin + h, margin : margin + w] = values_HW
    for _ in range(2):
        total: np.ndarray = np.cumsum(out, 0, dtype=whole)
        down = np.concatenate([total[width - 1 : width], total[width:] - total[:-width]], 0)
        total = np.cumsum(down, 1, dtype=whole)
        out = np.concatenate([total[:, width - 1 : width], total[:, width:] - total[:, :-width]], 1)
    return out.astype(np.float32) * np.float32(1 / width**4)


def value_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) float32 smooth, tileable noise in [0, 1] with `cells` bumps along a side."""
    grid = rng.integers(0, 256, (cells, cells)).astype(np.float32) / np.float32(255)
    place = np.arange(size, dtype=np.float32) * np.float32(cells / size)
    cell = place.astype(np.int64)
    t = place - cell
    t = t * t * (3 - 2 * t)
    here, there = cell % cells, (cell + 1) % cells
    rows = grid[here] + t[:, None] * (grid[there] - grid[here])
    columns = np.ascontiguousarray(rows.T)  # gathering rows is faster than gathering columns
    return np.ascontiguousarray((columns[here] + t[:, None] * (columns[there] - columns[here])).T)


def sensor_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 noise of zero mean and unit variance: the sum of four random bytes, close to a normal distribution."""
    total = rng.integers(0, 256, (4, *shape), np.uint8).sum(0, dtype=np.int32)
    return (total.astype(np.float32) - np.float32(510)) * np.float32(1 / 147.8)


def pattern_mix(
    paint: Paint, noise_HW: np.ndarray, grain_HW: np.ndarray, origin: tuple[int, int], size: int
) -> np.ndarray:
    """(h, w) float32 in [0, 1], the share of the second colour. noise_HW bends the pattern; origin: (y0, x0)."""
    h, w = noise_HW.shape
    if paint.pattern == "plain":
        return noise_HW * np.float32(0.18)
    if paint.pattern == "mottled":
        return _step((grain_HW + noise_HW * np.float32(0.7)) - np.float32(0.85), 3.0)
    y = np.arange(origin[0], origin[0] + h, dtype=np.float32)[:, None]
    x = np.arange(origin[1], origin[1] + w, dtype=np.float32)[None, :]
    scale = 1 / max(paint.period * size, 3.0)
    c, s = np.float32(np.round(np.cos(paint.angle), 6) * scale), np.float32(np.round(np.sin(paint.angle), 6) * scale)
    u = (x * c + y * s) + noise_HW * np.float32(0.5)
    sharp = 0.6 / scale
    if paint.pattern == "stripes":
        return _step(_triangle(u) - np.float32(0.5), sharp)
    v = (y * c - x * s) + noise_HW * np.float32(0.5)
    if paint.pattern == "checks":
        return _step((_triangle(u) - np.float32(0.5)) * (_triangle(v) - np.float32(0.5)), 2 * sharp)
    du, dv = _triangle(u), _triangle(v)  # 0 on the lattice, 1 halfway: round spots
    return _step(np.float32(0.3) - (du * du + dv * dv), sharp)


def _triangle(u: np.ndarray) -> np.ndarray:
    """0 at whole numbers, 1 halfway between them."""
    u = u - np.floor(u)
    return np.float32(1) - np.abs(u + u - np.float32(1))


def _step(x: np.ndarray, sharp: float) -> np.ndarray:
    return np.clip(x * np.float32(sharp) + np.float32(0.5), 0, 1)


def binomial_blur(image_HW3: np.ndarray, share: float) -> np.ndarray:
    """Mix in `share` of the image smoothed by (1, 2, 1) / 4 along both axes."""
    wide = np.pad(image_HW3, ((1, 1), (1, 1), (0, 0)), mode="edge")
    soft = wide[:-2] + wide[2:] + 2 * wide[1:-1]
    soft = (soft[:, :-2] + soft[:, 2:] + 2 * soft[:, 1:-1]) * np.float32(1 / 16)
    return image_HW3 + np.float32(share) * (soft - image_HW3)
