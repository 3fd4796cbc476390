"""From bits to COCO's compressed run lengths, at another size and without ever drawing the masks there."""

from __future__ import annotations

import numba
import numpy as np

from sohes.masks.packed import PackedMasks


def encode(masks: PackedMasks, size: tuple[int, int]) -> tuple[bytes, ...]:
    """COCO's compressed run lengths of the masks stretched to `size` (height, width) by the nearest pixel."""
    rows, columns = (_nearest(*sides) for sides in zip(size, masks.size, strict=True))
    row_starts = np.searchsorted(rows, np.arange(masks.size[0] + 1))
    rles: list[bytes] = []
    for box, first in zip(masks.boxes_N4, masks.first_N, strict=True):
        changes = _changes(box, masks.words, first, row_starts, columns, size[0])
        rles.append(_compressed(changes, size[0] * size[1]).tobytes())
    return tuple(rles)


def _nearest(pixels: int, source_pixels: int) -> np.ndarray:
    """(pixels,) int64: the source pixel that each pixel's centre falls into."""
    return (2 * np.arange(pixels) + 1) * source_pixels // (2 * pixels)


@numba.njit(cache=True)
def _changes(box, words, first, row_starts, columns, height):
    """The places, column by column, at which the stretched mask turns from 0 to 1 and back, rising."""
    row0, word0, row1, word1 = box
    begin, end = np.searchsorted(columns, 64 * word0), np.searchsorted(columns, 64 * word1)
    of_column = np.empty(row1 - row0 + 1, np.int64)
    changes = np.empty(64, np.int64)
    count = in_column = 0
    for x in range(begin, end):
        column = columns[x]
        if x == begin or column != columns[x - 1]:
            in_column = 0
            inside = np.uint64(0)
            bit = np.uint64(column % 64)
            for y in range(row0, row1):
                value = (words[first + (y - row0) * (word1 - word0) + column // 64 - word0] >> bit) & np.uint64(1)
                if value != inside:
                    of_column[in_column] = row_starts[y]
                    in_column += 1
                    inside = value
            if inside:
                of_column[in_column] = row_starts[row1]
                in_column += 1
        if count + in_column > len(changes):
            more = np.empty(2 * (count + in_column), np.int64)
            more[:count] = changes[:count]
            changes = more
        for y in of_column[:in_column]:
            place = x * height + y
            if count and changes[count - 1] == place:  # to and fro at one place: a row left out, or the next column
                count -= 1
            else:
                changes[count] = place
                count += 1
    return changes[:count]


@numba.njit(cache=True)
def _compressed(changes, pixels):
    """COCO's text of the run lengths: each less the one two before it, five bits a character, the lowest first."""
    runs = len(changes) + 1
    if len(changes) and changes[-1] == pixels:
        runs -= 1
    text = np.empty(13 * runs, np.uint8)
    length = 0
    for i in range(runs):
        value = _run(changes, i, runs, pixels)
        if i > 2:
            value -= _run(changes, i - 2, runs, pixels)
        while True:
            five, value = value & 31, value >> 5
            more = value != (-1 if five & 16 else 0)
            text[length] = five + 32 * more + 48
            length += 1
            if not more:
                break
    return text[:length]


@numba.njit(cache=True)
def _run(changes, i, runs, pixels):
    start = 0 if i == 0 else changes[i - 1]
    return (pixels if i == runs - 1 else changes[i]) - start
