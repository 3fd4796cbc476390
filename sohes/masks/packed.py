"""Masks as bits, each only within its bounding box: what phase 1 computes with.

One image may have thousands of candidates, most of them a few hundred pixels large. As boolean pictures of 1024 x 1024
they would fill gigabytes; here a mask costs an eighth of its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sohes.work.compiled import compiled


@dataclass(frozen=True)
class PackedMasks:
    """N masks of one picture.

    size: the picture's (height, width).  boxes_N4: int64 half-open boxes (row, word, row, word), all zeros for an empty
    mask; word w of a row holds the pixels 64 w to 64 w + 63, the first in its lowest bit.
    words: uint64, mask after mask, row after row; mask i's begin at first_N[i] (int64).
    """

    size: tuple[int, int]
    boxes_N4: np.ndarray
    words: np.ndarray
    first_N: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes_N4)

    def __getitem__(self, kept: np.ndarray) -> PackedMasks:
        """The masks at an index array or under a (N,) bool array."""
        boxes, first = self.boxes_N4[kept], self.first_N[kept]
        words = [self.words[start : start + count] for start, count in zip(first, _word_counts(boxes), strict=True)]
        return _assembled(self.size, boxes, words)

    def window(self, index: int, box_yxyx: Sequence[int]) -> np.ndarray:
        """(y1 - y0, x1 - x0) bool: the part of one mask inside a box of the picture."""
        y0, x0, y1, x1 = (int(side) for side in box_yxyx)
        seen = np.zeros((y1 - y0, x1 - x0), bool)
        row0, word0, row1, word1 = self.boxes_N4[index].tolist()
        top, bottom, left, right = max(y0, row0), min(y1, row1), max(x0, 64 * word0), min(x1, 64 * word1)
        if top < bottom and left < right:
            start = int(self.first_N[index])
            words_hw = self.words[start : start + (row1 - row0) * (word1 - word0)].reshape(row1 - row0, word1 - word0)
            bits = np.unpackbits(words_hw[top - row0 : bottom - row0].view(np.uint8), axis=1, bitorder="little")
            seen[top - y0 : bottom - y0, left - x0 : right - x0] = bits[:, left - 64 * word0 : right - 64 * word0]
        return seen

    def unpacked(self) -> np.ndarray:
        """(N, H, W) bool."""
        masks_NHW = np.zeros((len(self), *self.size), bool)
        for i in range(len(self)):
            masks_NHW[i] = self.window(i, (0, 0, *self.size))
        return masks_NHW


def _word_counts(boxes_N4: np.ndarray) -> np.ndarray:
    return (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])


def _blank(size: tuple[int, int], boxes_N4: np.ndarray) -> PackedMasks:
    """Masks with these boxes and not yet a pixel."""
    counts = _word_counts(boxes_N4)
    return PackedMasks(size, boxes_N4, np.zeros(counts.sum(), np.uint64), np.cumsum(counts) - counts)


def _assembled(size: tuple[int, int], boxes_N4: np.ndarray, words: Sequence[np.ndarray]) -> PackedMasks:
    counts = _word_counts(boxes_N4)
    joined = np.concatenate(words) if len(words) else np.zeros(0, np.uint64)
    return PackedMasks(size, boxes_N4, joined, np.cumsum(counts) - counts)


def pack(masks_Nhw: np.ndarray, *, size: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> PackedMasks:
    """Pack (N, h, w) bool masks whose first pixel is the picture's pixel `origin`."""
    y, x = origin
    rows_of_words = _as_words(masks_Nhw, x % 64)
    packed = _blank(size, nonzero_boxes(rows_of_words))
    _cut(packed.words, packed.boxes_N4, packed.first_N, rows_of_words)
    packed.boxes_N4[packed.boxes_N4[:, 2] > 0] += np.array([y, x // 64, y, x // 64])
    return packed


def _as_words(masks_Nhw: np.ndarray, skipped: int) -> np.ndarray:
    """(N, h, ceil((skipped + w) / 64)) uint64: each row's pixels as bits behind `skipped` zeros."""
    n, height, width = masks_Nhw.shape
    if skipped or width % 64:
        aligned = np.zeros((n, height, -(-(skipped + width) // 64) * 64), bool)
        aligned[:, :, skipped : skipped + width] = masks_Nhw
        masks_Nhw = aligned
    return np.packbits(masks_Nhw, axis=2, bitorder="little").view(np.uint64)


@compiled(nogil=True)
def nonzero_boxes(cells):
    """(N, 4) int64 half-open boxes (row, column, row, column) of what is not zero in (N, h, w) words or cells; all
    zeros where everything is."""
    n, height, width = cells.shape
    boxes = np.zeros((n, 4), np.int64)
    for i in range(n):
        y0, x0, y1, x1 = height, width, 0, 0
        for y in range(height):
            for x in range(width):
                if cells[i, y, x]:
                    y0, y1 = min(y0, y), y + 1
                    x0, x1 = min(x0, x), max(x1, x + 1)
        if y1:  # one by one: to assign a tuple takes a second and a half to compile
            boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = y0, x0, y1, x1
    return boxes


@compiled(nogil=True)
def _cut(words, boxes, first, rows_of_words):
    for i in range(len(boxes)):
        row0, word0, row1, word1 = boxes[i]
        wide = word1 - word0
        for y in range(row0, row1):
            start = first[i] + (y - row0) * wide
            for w in range(wide):
                words[start + w] = rows_of_words[i, y, word0 + w]


def lay(
    masks_Nhw: np.ndarray,
    from_rows: np.ndarray,
    from_columns: np.ndarray,
    *,
    size: tuple[int, int],
    origin: tuple[int, int],
) -> PackedMasks:
    """Pack masks on a grid, stretched: pixel (i, j) from `origin` on takes the cell (from_rows[i], from_columns[j]).

    Both index arrays rise.
    """
    cells = np.ascontiguousarray(masks_Nhw, bool)
    boxes = _pixel_boxes(cells, _first_of(from_rows, cells.shape[1]), _first_of(from_columns, cells.shape[2]))
    boxes += np.array([*origin, *origin])
    boxes[(boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])] = 0
    boxes[:, 1] //= 64
    boxes[:, 3] = -(-boxes[:, 3] // 64)
    packed = _blank(size, boxes)
    _fill(packed.words, boxes, packed.first_N, cells, np.asarray(from_rows), np.asarray(from_columns), *origin)
    return packed


def _first_of(from_cells: np.ndarray, cells: int) -> np.ndarray:
    """(cells + 1,) int64: where the pixels of each cell begin."""
    return np.searchsorted(from_cells, np.arange(cells + 1))


def _pixel_boxes(cells: np.ndarray, row_starts: np.ndarray, column_starts: np.ndarray) -> np.ndarray:
    """(N, 4) boxes in pixels, before the origin is added."""
    y0, x0, y1, x1 = nonzero_boxes(cells).T
    boxes = np.stack([row_starts[y0], column_starts[x0], row_starts[y1], column_starts[x1]], 1)
    boxes[y1 == 0] = 0
    return boxes


@compiled
def _fill(words, boxes, first, cells, from_rows, from_columns, y_origin, x_origin):
    for i in range(len(boxes)):
        row0, word0, row1, word1 = boxes[i]
        x0, x1 = max(64 * word0, x_origin), min(64 * word1, x_origin + len(from_columns))
        for y in range(row0, row1):
            start = first[i] + (y - row0) * (word1 - word0) - word0
            row = cells[i, from_rows[y - y_origin]]
            for x in range(x0, x1):
                if row[from_columns[x - x_origin]]:
                    words[start + x // 64] |= np.uint64(1) << np.uint64(x % 64)


def join(parts: Sequence[PackedMasks], *, size: tuple[int, int]) -> PackedMasks:
    """The masks of all parts, in their order."""
    boxes = np.concatenate([np.zeros((0, 4), np.int64), *(part.boxes_N4 for part in parts)])
    return _assembled(size, boxes, [part.words for part in parts])


# ---------------------------------------------------------------- counts


def areas(masks: PackedMasks) -> np.ndarray:
    """(N,) int64 pixels."""
    return _areas(masks.boxes_N4, masks.words, masks.first_N)


def overlaps(masks: PackedMasks, others: PackedMasks) -> np.ndarray:
    """(N,) int64: the pixels that mask i shares with mask i of the others."""
    return _overlaps(masks.boxes_N4, masks.words, masks.first_N, others.boxes_N4, others.words, others.first_N)


def resemble(masks: PackedMasks, others: PackedMasks, *, min_iou: float) -> np.ndarray:
    """(N,) bool: whether mask i and mask i of the others share a pixel and have an IoU of at least `min_iou`."""
    shared = overlaps(masks, others)
    return (shared > 0) & (shared >= min_iou * (areas(masks) + areas(others) - shared))


def settle(masks: PackedMasks, others: PackedMasks, *, min_iou: float) -> tuple[PackedMasks, np.ndarray]:
    """Mask i where it resembles mask i of the others, which stays where not; and (N,) bool: whether it does."""
    alike = resemble(masks, others, min_iou=min_iou)
    first, second = np.flatnonzero(alike), np.flatnonzero(~alike)
    in_order = np.argsort(np.concatenate([first, second]))
    return join([masks[first], others[second]], size=masks.size)[in_order], alike


def intersections(masks: PackedMasks) -> np.ndarray:
    """(N, N) int64 pixels shared by each pair; the diagonal holds the areas."""
    return _intersections(masks.boxes_N4, masks.words, masks.first_N)


def suppress(masks: PackedMasks, *, nms_iou: float) -> np.ndarray:
    """(K,) int64 indices kept by greedy non-maximum suppression in the masks' own order: a mask is dropped if it is
    empty (`dense.nms_from_iou` keeps such), or if an earlier kept one has IoU above `nms_iou` with it."""
    return _suppress(masks.boxes_N4, masks.words, masks.first_N, float(nms_iou))


@compiled
def _popcount(word):  # the classic parallel bit count: numba turns it into one instruction where there is one
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _areas(boxes, words, first):
    area = np.zeros(len(boxes), np.int64)
    for i in range(len(boxes)):
        count = np.uint64(0)
        for k in range(first[i], first[i] + (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])):
            count += _popcount(words[k])
        area[i] = np.int64(count)
    return area


@compiled
def _shared(box, words, start, other_box, other_words, other_start):
    """Pixels that two masks share, counted inside the overlap of their boxes."""
    y0, y1 = max(box[0], other_box[0]), min(box[2], other_box[2])
    x0, x1 = max(box[1], other_box[1]), min(box[3], other_box[3])
    wide, other_wide = box[3] - box[1], other_box[3] - other_box[1]
    count = np.uint64(0)
    for y in range(y0, y1):
        row = start + (y - box[0]) * wide - box[1]
        other_row = other_start + (y - other_box[0]) * other_wide - other_box[1]
        for x in range(x0, x1):
            count += _popcount(words[row + x] & other_words[other_row + x])
    return np.int64(count)


@compiled
def _overlaps(boxes, words, first, other_boxes, other_words, other_first):
    shared = np.empty(len(boxes), np.int64)
    for i in range(len(boxes)):
        shared[i] = _shared(boxes[i], words, first[i], other_boxes[i], other_words, other_first[i])
    return shared


@compiled
def _intersections(boxes, words, first):
    n = len(boxes)
    shared = np.empty((n, n), np.int64)
    for i in range(n):
        for j in range(i, n):
            shared[i, j] = shared[j, i] = _shared(boxes[i], words, first[i], boxes[j], words, first[j])
    return shared


@compiled
def _suppress(boxes, words, first, nms_iou):
    area = _areas(boxes, words, first)
    kept = np.empty(len(boxes), np.int64)
    count = 0
    for i in range(len(boxes)):
        dropped = area[i] == 0
        for k in kept[:count]:
            if min(area[i], area[k]) <= nms_iou * max(area[i], area[k]):
                continue  # the ratio of areas is the highest IoU that two masks can have
            shared = _shared(boxes[i], words, first[i], boxes[k], words, first[k])
            if shared / (area[i] + area[k] - shared) > nms_iou:
                dropped = True
                break
        if not dropped:
            kept[count] = i
            count += 1
    return kept[:count]
