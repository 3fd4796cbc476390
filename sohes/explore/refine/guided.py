"""Refinement by the guided filter: in each window the mask is a linear function of colour (He et al., 2010)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from sohes.masks.packed import PackedMasks, join, pack
from sohes.work.compiled import compiled

WORKING_RADIUS = 4  # pixels; the coefficients are smooth, so the image is reduced until the radius is about this


@dataclass(frozen=True)
class GuidedRefiner:
    """patch: side of a patch in pixels.  radius: of the windows, in patches; an outline moves by up to twice as much.
    epsilon: the variance of colours in [0, 1] below which a window counts as flat. Both measured in docs/log.md."""

    patch: float
    radius: float = 1.5
    epsilon: float = 1e-4
    label_free = True

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """Each filtered mask thresholded at one half, then the majority of 3 x 3 pixels.

        Computed within the mask's box and a margin around it.
        """
        radius = self.radius * self.patch
        step = max(1, round(radius / WORKING_RADIUS))
        guide = _Guide(image_HW3, step, max(1, round(radius / step)), self.epsilon)
        with ThreadPoolExecutor(cv2.getNumThreads()) as threads:  # one in the processes of a pool
            return join(list(threads.map(partial(guide.filter, masks), range(len(masks)))), size=masks.size)


class _Guide:
    """Statistics of an image that all its masks share, for blocks of `step` x `step` pixels."""

    def __init__(self, image_HW3: np.ndarray, step: int, radius: int, epsilon: float):
        self.image, self.step, self.radius = image_HW3, step, radius
        self.colour = _reduced(image_HW3.astype(np.float32) / 255, step)
        self.mean = self._box(self.colour)
        covariance = np.empty((*self.colour.shape, 3), np.float32)
        for i in range(3):
            products = self._box(self.colour * self.colour[..., i : i + 1])
            covariance[..., i] = products - self.mean * self.mean[..., i : i + 1]
        self.inverse = np.linalg.inv(covariance + epsilon * np.eye(3, dtype=np.float32))

    def _box(self, array: np.ndarray) -> np.ndarray:
        side = 2 * self.radius + 1
        return cv2.boxFilter(array, -1, (side, side), borderType=cv2.BORDER_REFLECT)

    def filter(self, masks: PackedMasks, index: int) -> PackedMasks:
        """One refined mask."""
        margin = 2 * self.radius + 1  # blocks; the filter is 0 beyond
        row0, word0, row1, word1 = masks.boxes_N4[index].tolist()
        y0, x0 = max(0, row0 // self.step - margin), max(0, 64 * word0 // self.step - margin)
        y1, x1 = -(-row1 // self.step) + margin, -(-64 * word1 // self.step) + margin
        blocks = np.s_[y0:y1, x0:x1]
        y0, x0, y1, x1 = y0 * self.step, x0 * self.step, y1 * self.step, x1 * self.step
        image = self.image[y0:y1, x0:x1]
        mask = masks.window(index, (y0, x0, y0 + image.shape[0], x0 + image.shape[1]))

        alpha = _reduced(mask.astype(np.float32), self.step)
        mean_alpha = self._box(alpha)
        products = self._box(self.colour[blocks] * alpha[..., None])
        linear = self._box(_linear(products, mean_alpha, self.mean[blocks], self.inverse[blocks]))
        if self.step > 1:
            linear = cv2.resize(linear, None, fx=self.step, fy=self.step, interpolation=cv2.INTER_LINEAR)
        refined = np.empty(mask.shape, bool)
        _apply(linear, image, refined)
        refined = cv2.medianBlur(refined.view(np.uint8), 3).view(bool)  # removes single noisy pixels
        return pack(refined[None], size=masks.size, origin=(y0, x0))


def _reduced(array: np.ndarray, step: int) -> np.ndarray:
    """Means of blocks of step x step, the last ones padded with the values at the border."""
    if step == 1:
        return array
    height, width = array.shape[:2]
    whole = cv2.copyMakeBorder(array, 0, -height % step, 0, -width % step, cv2.BORDER_REPLICATE)
    return cv2.resize(whole, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)


@compiled(nogil=True)
def _linear(products, mean_alpha, mean, inverse):
    """(h, w, 4): slope per colour and offset of each window's least-squares fit of alpha to colour."""
    height, width = mean_alpha.shape
    linear = np.empty((height, width, 4), np.float32)
    for y in range(height):
        for x in range(width):
            offset = mean_alpha[y, x]
            for i in range(3):
                slope = np.float32(0)
                for j in range(3):
                    covariance = products[y, x, j] - mean[y, x, j] * mean_alpha[y, x]
                    slope += inverse[y, x, i, j] * covariance
                linear[y, x, i] = slope
                offset -= slope * mean[y, x, i]
            linear[y, x, 3] = offset
    return linear


@compiled(nogil=True)
def _apply(linear, image, refined):
    for y in range(refined.shape[0]):
        for x in range(refined.shape[1]):
            colour = np.float32(0)
            for i in range(3):
                colour += linear[y, x, i] * image[y, x, i]
            refined[y, x] = colour / np.float32(255) + linear[y, x, 3] > 0.5
