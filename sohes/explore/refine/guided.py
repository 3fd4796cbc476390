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
        self.image_3HW = np.array(image_HW3.transpose(2, 0, 1), order="C")
        self.step, self.radius = step, radius
        colours = [_reduced(plane.astype(np.float32) / 255, step) for plane in self.image_3HW]
        means = [self._means(plane) for plane in colours]
        covariance = np.empty((*colours[0].shape, 3, 3), np.float32)
        for i in range(3):
            for j in range(i + 1):
                shared = self._means(colours[i] * colours[j]) - means[i] * means[j]
                covariance[..., i, j] = covariance[..., j, i] = shared
        self.colour_3hw, self.mean_3hw = np.stack(colours), np.stack(means)
        self.inverse_hw33 = np.linalg.inv(covariance + epsilon * np.eye(3, dtype=np.float32))

    def _means(self, array_hw: np.ndarray) -> np.ndarray:
        means = array_hw.copy()
        _average(means, self.radius)
        return means

    def filter(self, masks: PackedMasks, index: int) -> PackedMasks:
        """One refined mask."""
        margin = 2 * self.radius + 1  # blocks; the filter is 0 beyond
        height, width = self.colour_3hw.shape[1:]
        row0, word0, row1, word1 = masks.boxes_N4[index].tolist()
        top, left = max(0, row0 // self.step - margin), max(0, 64 * word0 // self.step - margin)
        bottom = min(height, -(-row1 // self.step) + margin)
        right = min(width, -(-64 * word1 // self.step) + margin)
        rows, wide = row1 - row0, word1 - word0
        words = masks.words[masks.first_N[index] :][: rows * wide].reshape(rows, wide)
        blocks = (top, left, bottom, right)
        statistics = (self.image_3HW, self.colour_3hw, self.mean_3hw, self.inverse_hw33)
        refined = _filtered(words, row0, 64 * word0, blocks, self.step, self.radius, *statistics)
        return pack(refined[None], size=masks.size, origin=(top * self.step, left * self.step))


def _reduced(array_HW: np.ndarray, step: int) -> np.ndarray:
    """Means of blocks of step x step, the last ones padded with the values at the border."""
    height, width = array_HW.shape
    whole = cv2.copyMakeBorder(array_HW, 0, -height % step, 0, -width % step, cv2.BORDER_REPLICATE)
    return cv2.resize(whole, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)


# One call a mask, for threads would wait for each other at the end of each of OpenCV's. Plain loops, where numpy has
# words, for those take seconds to compile.


@compiled(nogil=True)
def _filtered(words, row0, column0, blocks, step, radius, image_3HW, colour_3hw, mean_3hw, inverse_hw33):
    """(H, W) bool: the mask, whose words begin at a row and column of the image, refined within a box of blocks."""
    top, left, bottom, right = blocks
    planes_4hw = np.zeros((4, bottom - top, right - left), np.float32)
    _cover(words, row0, column0, blocks, step, image_3HW.shape[1], image_3HW.shape[2], planes_4hw[3])
    for i in range(3):
        for y in range(bottom - top):
            for x in range(right - left):
                planes_4hw[i, y, x] = planes_4hw[3, y, x] * colour_3hw[i, top + y, left + x]
    for i in range(4):
        _average(planes_4hw[i], radius)
    _fit(planes_4hw, mean_3hw, inverse_hw33, top, left)
    for i in range(4):
        _average(planes_4hw[i], radius)
    return _majority(_applied(planes_4hw, image_3HW, step, top, left))


@compiled(nogil=True)
def _cover(words, row0, column0, blocks, step, height, width, alpha_hw):
    """Add, to zeros, the share of each block that a mask covers; blocks go on beyond the image as at its border."""
    top, left, bottom, right = blocks
    first, last = column0 // step, min(right, (column0 + 64 * words.shape[1] + step - 1) // step)
    skipped, border = column0 - first * step, width - first * step  # pixels of the row of these blocks
    row = np.zeros(max((last - first) * step, skipped + 64 * words.shape[1]), np.uint8)
    for y in range(top * step, bottom * step):
        inside = min(y, height - 1) - row0
        if inside < 0 or inside >= len(words):
            continue
        for w in range(words.shape[1]):
            for bit in range(64):
                row[skipped + 64 * w + bit] = (words[inside, w] >> np.uint64(bit)) & np.uint64(1)
        for x in range(border, len(row)):
            row[x] = row[border - 1]
        for block in range(last - first):
            count = 0
            for x in range(block * step, (block + 1) * step):
                count += row[x]
            alpha_hw[y // step - top, first - left + block] += np.float32(count)
    for y in range(bottom - top):
        for x in range(right - left):
            alpha_hw[y, x] *= np.float32(1) / np.float32(step * step)


@compiled(nogil=True)
def _average(array_hw, radius):
    """Replace each value by the mean of its window of 2 radius + 1, reflected at the border."""
    height, width = array_hw.shape
    side = 2 * radius + 1
    sums = np.empty((height, width))
    row = np.empty(width + side)
    for y in range(height):
        for x in range(width):
            row[radius + x] = array_hw[y, x]
        for x in range(radius):
            row[x] = array_hw[y, _reflected(x - radius, width)]
        for x in range(width, width + radius + 1):
            row[radius + x] = array_hw[y, _reflected(x, width)]
        total = 0.0
        for x in range(side):
            total += row[x]
        for x in range(width):
            sums[y, x] = total
            total += row[x + side] - row[x]
    columns = np.zeros(width)
    for y in range(-radius, radius + 1):
        for x in range(width):
            columns[x] += sums[_reflected(y, height), x]
    for y in range(height):
        added, dropped = _reflected(y + radius + 1, height), _reflected(y - radius, height)
        for x in range(width):
            array_hw[y, x] = columns[x] * (1 / side**2)
            columns[x] += sums[added, x] - sums[dropped, x]


@compiled(nogil=True)
def _reflected(place, side):
    while place < 0 or place >= side:
        place = -place - 1 if place < 0 else 2 * side - 1 - place
    return place


@compiled(nogil=True)
def _fit(planes_4hw, mean_3hw, inverse_hw33, top, left):
    """Replace the means of alpha times each colour, and of alpha, by each window's least-squares fit of alpha to
    colour: a slope per colour, and the offset."""
    for y in range(planes_4hw.shape[1]):
        for x in range(planes_4hw.shape[2]):
            offset = mean_alpha = planes_4hw[3, y, x]
            red, green, blue = (
                mean_3hw[0, top + y, left + x],
                mean_3hw[1, top + y, left + x],
                mean_3hw[2, top + y, left + x],
            )
            covariances = (
                planes_4hw[0, y, x] - red * mean_alpha,
                planes_4hw[1, y, x] - green * mean_alpha,
                planes_4hw[2, y, x] - blue * mean_alpha,
            )
            for i in range(3):
                slope = np.float32(0)
                for j in range(3):
                    slope += inverse_hw33[top + y, left + x, i, j] * covariances[j]
                planes_4hw[i, y, x] = slope
                offset -= slope * mean_3hw[i, top + y, left + x]
            planes_4hw[3, y, x] = offset


@compiled(nogil=True)
def _applied(planes_4hw, image_3HW, step, top, left):
    """(H, W) bool: where slopes and offset, enlarged `step` times bilinearly, give more than one half."""
    _, h, w = planes_4hw.shape
    y0, x0 = top * step, left * step
    height, width = min(h * step, image_3HW.shape[1] - y0), min(w * step, image_3HW.shape[2] - x0)
    befores, afters, shares = _between(width, step, w)
    wide = np.empty((4, h, width), np.float32)
    for i in range(4):
        for y in range(h):
            for x in range(width):
                one, other = planes_4hw[i, y, befores[x]], planes_4hw[i, y, afters[x]]
                wide[i, y, x] = one * (np.float32(1) - shares[x]) + other * shares[x]
    above = np.empty((height, width), np.bool_)
    befores, afters, shares = _between(height, step, h)
    half = np.float32(0.5)  # of the others' type: so the compiler takes eight pixels at a time
    for y in range(height):
        before, after, share = befores[y], afters[y], shares[y]
        rest = np.float32(1) - share
        for x in range(width):
            red = wide[0, before, x] * rest + wide[0, after, x] * share
            green = wide[1, before, x] * rest + wide[1, after, x] * share
            blue = wide[2, before, x] * rest + wide[2, after, x] * share
            offset = wide[3, before, x] * rest + wide[3, after, x] * share
            colour = red * image_3HW[0, y0 + y, x0 + x]
            colour += green * image_3HW[1, y0 + y, x0 + x]
            colour += blue * image_3HW[2, y0 + y, x0 + x]
            above[y, x] = colour / np.float32(255) + offset > half
    return above


@compiled(nogil=True)
def _between(pixels, step, blocks):
    """For each of `pixels` the blocks before and after its centre, and the float32 share of the latter."""
    befores, afters = np.zeros(pixels, np.int64), np.zeros(pixels, np.int64)
    shares = np.zeros(pixels, np.float32)
    for i in range(step // 2, pixels):  # up to the first block's centre there is no other
        centre = (i + 0.5) / step - 0.5
        befores[i] = int(centre)
        afters[i] = min(befores[i] + 1, blocks - 1)
        shares[i] = centre - befores[i]
    return befores, afters, shares


@compiled(nogil=True)
def _majority(mask):
    """Of 3 x 3 pixels, those at the border repeated: removes single noisy pixels."""
    height, width = mask.shape
    majority = np.empty(mask.shape, np.bool_)
    sums = np.empty(width + 2, np.uint8)
    for y in range(height):
        before, after = max(0, y - 1), min(height - 1, y + 1)
        for x in range(width):
            sums[x + 1] = np.uint8(mask[before, x]) + np.uint8(mask[y, x]) + np.uint8(mask[after, x])
        sums[0], sums[width + 1] = sums[1], sums[width]
        for x in range(width):
            majority[y, x] = sums[x] + sums[x + 1] + sums[x + 2] > 4
    return majority
