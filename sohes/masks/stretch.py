"""Masks at another size: from run lengths to packed ones, and back. Bytes for all pixels of one are never made."""

from __future__ import annotations

import numpy as np

from sohes.masks.packed import PackedMasks
from sohes.masks.rle import compressed, drawn_words, nearest
from sohes.structures import MaskSet
from sohes.work.compiled import compiled


def packed_at(found: MaskSet, size: tuple[int, int]) -> PackedMasks:
    """The masks at `size`, by the nearest pixel."""
    firsts = (
        np.searchsorted(nearest(side, wanted), np.arange(side + 1))
        for side, wanted in zip((found.height, found.width), size, strict=True)
    )
    letters = np.frombuffer(b"".join(found.rles), np.uint8)
    ends = np.cumsum([len(rle) for rle in found.rles], dtype=np.int64)
    return PackedMasks(size, *drawn_words(letters, ends, found.height, *firsts))


def as_packed(found: MaskSet) -> PackedMasks:
    """The masks at their own size."""
    return packed_at(found, (found.height, found.width))


def encode_stretched(masks: PackedMasks, size: tuple[int, int]) -> tuple[bytes, ...]:
    """Run lengths of the masks, stretched to `size` (height, width) by the nearest pixel."""
    rows, columns = (_centres(*sides) for sides in zip(size, masks.size, strict=True))
    row_starts = np.searchsorted(rows, np.arange(masks.size[0] + 1))
    column_starts = np.searchsorted(columns, np.arange(0, masks.size[1] + 64, 64))
    rles: list[bytes] = []
    for box, first in zip(masks.boxes_N4, masks.first_N, strict=True):
        changes = _changes(box, masks.words, first, row_starts, columns, column_starts, size[0])
        rles.append(compressed(changes, size[0] * size[1]).tobytes())
    return tuple(rles)


def _centres(pixels: int, source_pixels: int) -> np.ndarray:
    """(pixels,) int64: the source pixel that each pixel's centre falls into.

    Not `rle.nearest`: OpenCV rounds some centres to the neighbour, and labels on disk are by this rule.
    """
    return (2 * np.arange(pixels) + 1) * source_pixels // (2 * pixels)


@compiled
def _changes(box, words, first, row_starts, columns, column_starts, height):
    """The rising places, column by column, at which the stretched mask turns from 0 to 1 and back."""
    row0, word0, row1, word1 = box
    begin, end = column_starts[word0], column_starts[word1]
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
            for k in range(count):
                more[k] = changes[k]
            changes = more
        for y in of_column[:in_column]:
            place = x * height + y
            if count and changes[count - 1] == place:  # both at one place: a skipped row, or the next column
                count -= 1
            else:
                changes[count] = place
                count += 1
    return changes[:count]
