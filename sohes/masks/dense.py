"""Masks as arrays: run lengths, areas, boxes, intersections, IoU and NMS. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numba
import numpy as np
from pycocotools import mask as coco_mask

from sohes.structures import MaskSet


def encode(masks_NHW: np.ndarray) -> tuple[bytes, ...]:
    """COCO's compressed run lengths of (N, H, W) bool masks."""
    columns_first = np.asfortranarray(masks_NHW.transpose(1, 2, 0).astype(np.uint8, copy=False))
    return tuple(rle["counts"] for rle in coco_mask.encode(columns_first))


def decode(masks: MaskSet) -> np.ndarray:
    """(N, H, W) bool masks of a MaskSet."""
    if not len(masks):
        return np.zeros((0, masks.height, masks.width), bool)
    return np.ascontiguousarray(coco_mask.decode(coco_rles(masks)).transpose(2, 0, 1)).view(bool)


def sample(masks: MaskSet, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(len(rows), len(columns)) bool: one mask at these rows and columns, int64, each rising; nothing else is drawn."""
    drawn = np.zeros((len(rows), len(columns)), bool)
    first_row = np.searchsorted(rows, np.arange(masks.height + 1))
    _draw_runs(np.frombuffer(masks.rles[index], np.uint8), masks.height, first_row, columns, drawn)
    return drawn


def nearest(side: int, wanted: int) -> np.ndarray:
    """(wanted,) int64: which of `side` pixels stands for each of a resized picture's, as by INTER_NEAREST_EXACT."""
    places = np.arange(side, dtype=np.float32)[:, None]
    return cv2.resize(places, (1, wanted), interpolation=cv2.INTER_NEAREST_EXACT)[:, 0].astype(np.int64)


def coco_rles(masks: MaskSet) -> list[dict]:
    """The dictionaries `{"size": [H, W], "counts": bytes}` that pycocotools speaks."""
    return [{"size": [masks.height, masks.width], "counts": counts} for counts in masks.rles]


def areas(masks: MaskSet) -> np.ndarray:
    """(N,) int64 pixels."""
    rles = coco_rles(masks)
    # pycocotools 2.0.11 overflows on more than 255 masks at once under numpy 2
    parts = [coco_mask.area(rles[start : start + 255]) for start in range(0, len(rles), 255)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def boxes_xywh(masks: MaskSet) -> np.ndarray:
    """(N, 4) float64 boxes in pixels."""
    return coco_mask.toBbox(coco_rles(masks)).reshape(-1, 4) if len(masks) else np.zeros((0, 4))


def mask_set(
    masks_NHW: np.ndarray,
    *,
    scores: np.ndarray | None = None,
    parents: np.ndarray | None = None,
    sources: Sequence[str] | str = "",
) -> MaskSet:
    """Pack (N, H, W) bool masks. Without scores all are 1, without parents all are roots."""
    n, height, width = masks_NHW.shape
    return MaskSet(
        height,
        width,
        encode(masks_NHW) if n else (),
        np.ones(n, np.float32) if scores is None else np.asarray(scores, np.float32),
        np.full(n, -1, np.int64) if parents is None else np.asarray(parents, np.int64),
        (sources,) * n if isinstance(sources, str) else tuple(sources),
    )


def empty_mask_set(height: int, width: int) -> MaskSet:
    """The MaskSet of an image in which nothing was found."""
    return mask_set(np.zeros((0, height, width), bool))


def bounding_boxes(masks_NHW: np.ndarray) -> np.ndarray:
    """(N, 4) int64 half-open boxes (y0, x0, y1, x1); all zeros for an empty mask."""
    rows: np.ndarray = np.any(masks_NHW, axis=2)
    columns: np.ndarray = np.any(masks_NHW, axis=1)
    y0, x0 = rows.argmax(1), columns.argmax(1)
    y1 = masks_NHW.shape[1] - rows[:, ::-1].argmax(1)
    x1 = masks_NHW.shape[2] - columns[:, ::-1].argmax(1)
    boxes = np.stack([y0, x0, y1, x1], 1).astype(np.int64)
    boxes[~np.any(rows, axis=1)] = 0
    return boxes


def intersections(masks_NHW: np.ndarray) -> np.ndarray:
    """(N, N) int64 pixels shared by each pair; the diagonal holds the areas.

    Bits packed into 64-bit words and counted inside the overlap of the bounding boxes only: at 1024 x 1024 and
    100 masks some 30 times faster than a matrix product of the flattened masks. The boxes are taken from the
    packed words, an eighth of the memory, in whole words.
    """
    packed = _packed_rows(masks_NHW)
    return _shared_bits(packed, nonzero_boxes(packed))


def _packed_rows(masks_NHW: np.ndarray) -> np.ndarray:
    """(N, H, ceil(W / 64)) uint64: each row's pixels as bits, zeros behind the last."""
    n, height, width = masks_NHW.shape
    bits = np.packbits(masks_NHW, axis=2)
    spare = -width % 64 // 8
    if spare:
        bits = np.concatenate([bits, np.zeros((n, height, spare), np.uint8)], axis=2)
    return bits.view(np.uint64)


@numba.njit(cache=True)
def _draw_runs(letters, height, first_row, columns, drawn):
    """COCO's letters: five bits each, low ones first, 32 for "more follows", 16 in the last for a negative number; from
    the fourth run on a number is the difference from the run before the last."""
    at, run, column = 0, 0, 0
    start, last, before = np.int64(0), np.int64(0), np.int64(0)
    while at < len(letters):
        value, shift, more = np.int64(0), 0, True
        while more and at < len(letters):
            letter = np.int64(letters[at]) - 48
            value |= (letter & 31) << shift
            more = letter & 32 != 0
            shift += 5
            if not more and letter & 16:
                value |= -1 << shift
            at += 1
        if run > 2:
            value += before
        before, last = last, value
        end = start + value
        if run % 2:
            while column < len(columns) and (columns[column] + 1) * height <= start:
                column += 1
            c = column
            while c < len(columns) and columns[c] * height < end:
                top, bottom = max(0, start - columns[c] * height), min(height, end - columns[c] * height)
                if top < bottom:
                    drawn[first_row[top] : first_row[bottom], c] = True
                c += 1
        start = end
        run += 1


@numba.njit(cache=True)
def nonzero_boxes(cells):
    """(N, 4) half-open boxes (row, column, row, column) of what is not zero in (N, h, w) words or cells; all zeros
    where everything is."""
    n, height, width = cells.shape
    boxes = np.zeros((n, 4), np.int64)
    for i in range(n):
        y0, x0, y1, x1 = height, width, 0, 0
        for y in range(height):
            for x in range(width):
                if cells[i, y, x]:
                    y0, y1 = min(y0, y), y + 1
                    x0, x1 = min(x0, x), max(x1, x + 1)
        if y1:
            boxes[i] = (y0, x0, y1, x1)
    return boxes


@numba.njit(cache=True)
def popcount(word):  # the classic parallel bit count: numba turns it into one instruction where there is one
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@numba.njit(cache=True)
def _shared_bits(packed, boxes):
    n = packed.shape[0]
    shared = np.zeros((n, n), np.int64)
    for i in range(n):
        for j in range(i, n):
            y0, y1 = max(boxes[i, 0], boxes[j, 0]), min(boxes[i, 2], boxes[j, 2])
            x0, x1 = max(boxes[i, 1], boxes[j, 1]), min(boxes[i, 3], boxes[j, 3])
            count = np.uint64(0)
            for y in range(y0, y1):
                for word in range(x0, x1):
                    count += popcount(packed[i, y, word] & packed[j, y, word])
            shared[i, j] = shared[j, i] = np.int64(count)
    return shared


def iou_from_intersections(shared_NN: np.ndarray) -> np.ndarray:
    """(N, N) float64 IoU from `intersections`; 0 where both masks are empty."""
    area = np.diagonal(shared_NN)
    union = area[:, None] + area[None, :] - shared_NN
    return np.divide(shared_NN, union, out=np.zeros(union.shape), where=union > 0)


def nms_from_iou(iou_NN: np.ndarray, order: np.ndarray, *, nms_iou: float) -> np.ndarray:
    """Indices kept by greedy non-maximum suppression, in `order`: a mask falls if an earlier kept one has
    IoU above `nms_iou` with it."""
    kept: list[int] = []
    for i in order:
        if not kept or iou_NN[i, kept].max() <= nms_iou:
            kept.append(int(i))
    return np.array(kept, np.int64)
