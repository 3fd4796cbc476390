"""The network's mask maps, enlarged straight into run lengths: no mask is ever drawn at the image's size."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sohes.masks.rle import compressed
from sohes.masks.windows import Box
from sohes.work.compiled import compiled


def encode_enlarged(
    maps_hw: Iterable[np.ndarray],
    level: float,
    *,
    stride: int,
    content_hw: tuple[int, int],
    image_hw: tuple[int, int],
    window: Box,
) -> tuple[list[bytes], np.ndarray]:
    """Run lengths of float32 maps enlarged bilinearly to `window` and cut at `level`, and their (N,) int64 areas.

    stride: input pixels to a cell.  content_hw: the input pixels, from the upper left corner, that show the window.
    window: of the image of `image_hw`, in which the masks lie.
    """
    top, left, bottom, right = window
    row_cell, row_share = _cells(content_hw[0], bottom - top, stride)
    columns = _cells(content_hw[1], right - left, stride)
    rles, areas = [], []
    for map_hw in maps_hw:
        logits_wh = np.ascontiguousarray(map_hw.T)
        first_row = np.searchsorted(row_cell, np.arange(len(map_hw) + 1))  # of the pixels that follow each cell
        changes = _enlarge(logits_wh, level, first_row, row_share, *columns, top, left, image_hw[0])
        rles.append(compressed(changes, image_hw[0] * image_hw[1]).tobytes())
        areas.append((changes[1::2] - changes[::2]).sum())
    return rles, np.array(areas, np.int64)


def _cells(content: int, side: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `side` pixels the cell before its centre, int64, and the share of the next cell, float32.

    Cells of padding alone are never read: the last one with content is repeated, as at an image's border.
    """
    place = (np.arange(side) + 0.5) * (content / side / stride) - 0.5
    place = place.clip(0, -(-content // stride) - 1)
    lower = np.floor(place).astype(np.int64)
    return lower, (place - lower).astype(np.float32)


@compiled(nogil=True)
def _enlarge(logits_wh, level, first_row, row_share, column_cell, column_share, top, left, image_height):
    """The places, column by column of the image, at which one enlarged mask turns from 0 to 1 and back.

    Between two rows of cells the logits are linear, so pixels are only looked at where one of the two is above `level`
    and the other is not.
    """
    w, h = logits_wh.shape
    width = len(column_cell)
    nonempty = np.zeros(w + 1, np.bool_)
    for c in range(w):
        for r in range(h):
            nonempty[c] |= logits_wh[c, r] > level
    changes = np.empty(128, np.int64)
    count = 0
    profile = np.empty(h + 1, np.float32)
    for x in range(width):
        c = column_cell[x]
        share = column_share[x]
        if not (nonempty[c] or (share > 0 and nonempty[c + 1])):
            continue
        before, after = logits_wh[c], logits_wh[min(c + 1, w - 1)]
        for r in range(h):
            profile[r] = before[r] + share * (after[r] - before[r])
        profile[h] = profile[h - 1]
        for r in range(h):
            a, b = profile[r], profile[r + 1]
            if a <= level and b <= level:
                continue
            start, stop = first_row[r], first_row[r + 1]
            if not (a > level and b > level):
                while start < stop and a + row_share[start] * (b - a) <= level:
                    start += 1
                while stop > start and a + row_share[stop - 1] * (b - a) <= level:
                    stop -= 1
            if start == stop:
                continue
            above = (left + x) * image_height + top
            start, stop = start + above, stop + above
            if count and changes[count - 1] == start:  # it continues the run before
                changes[count - 1] = stop
                continue
            if count == len(changes):
                longer = np.empty(2 * count, np.int64)
                for k in range(count):
                    longer[k] = changes[k]
                changes = longer
            changes[count], changes[count + 1] = start, stop
            count += 2
    return changes[:count]
