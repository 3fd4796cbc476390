"""COCO's compressed run lengths: the only file that knows their letters.

A mask is walked column by column, and its runs count the pixels outside, inside, outside, ... From the fourth on, a run
is stored as its difference from the one two before. A number is written as letters of five bits each, the lowest first;
a letter is 48 plus its bits, plus 32 if more follow, and bit 16 of the last is the sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sohes.structures import MaskSet
from sohes.work.compiled import compiled

DAMAGED, MISFIT, SPLIT = 1, 2, 3  # what `faults` finds

# ---------------------------------------------------------------- between pictures and run lengths


def encode(masks_NHW: np.ndarray) -> tuple[bytes, ...]:
    """The run lengths of (N, H, W) bool masks."""
    columns_first = np.asfortranarray(masks_NHW.transpose(1, 2, 0).astype(np.uint8, copy=False))
    return tuple(rle["counts"] for rle in coco_mask.encode(columns_first))


def decode(masks: MaskSet) -> np.ndarray:
    """(N, H, W) bool masks of a MaskSet."""
    if not len(masks):
        return np.zeros((0, masks.height, masks.width), bool)
    return np.ascontiguousarray(coco_mask.decode(coco_rles(masks)).transpose(2, 0, 1)).view(bool)


def sample(masks: MaskSet, index: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(len(rows), len(columns)) bool: one mask at these rising int64 rows and columns, without drawing the rest."""
    drawn = np.zeros((len(rows), len(columns)), bool)
    first_row = np.searchsorted(rows, np.arange(masks.height + 1))
    _draw(np.frombuffer(masks.rles[index], np.uint8), masks.height, first_row, columns, drawn)
    return drawn


def nearest(side: int, wanted: int) -> np.ndarray:
    """(wanted,) int64: the pixel, of `side`, that each pixel of a resized picture takes, as by INTER_NEAREST_EXACT."""
    places = np.arange(side, dtype=np.float32)[:, None]
    return cv2.resize(places, (1, wanted), interpolation=cv2.INTER_NEAREST_EXACT)[:, 0].astype(np.int64)


# ---------------------------------------------------------------- sets of masks


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


def coco_rles(masks: MaskSet) -> list[dict]:
    """`{"size": [H, W], "counts": bytes}` for each mask, as pycocotools takes them."""
    return [{"size": [masks.height, masks.width], "counts": counts} for counts in masks.rles]


def areas(masks: MaskSet, *, stated: bool = False) -> np.ndarray:
    """(N,) int64 pixels.

    stated: (N,) float64 instead, where the area that a mask's file states counts before that drawn, as in pycocotools.
    """
    rles = coco_rles(masks)
    # pycocotools 2.0.11 overflows on more than 255 masks at once under numpy 2
    parts = [coco_mask.area(rles[start : start + 255]) for start in range(0, len(rles), 255)]
    drawn_N = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)
    if not stated or masks.stated_areas is None:
        return drawn_N
    return np.where(np.isnan(masks.stated_areas), drawn_N, masks.stated_areas)


def boxes_xywh(masks: MaskSet) -> np.ndarray:
    """(N, 4) float64 boxes in pixels."""
    return coco_mask.toBbox(coco_rles(masks)).reshape(-1, 4) if len(masks) else np.zeros((0, 4))


# ---------------------------------------------------------------- letters


@compiled(nogil=True)
def compressed(changes, pixels):
    """uint8 letters of a mask of `pixels` pixels that turns from 0 to 1 and back at the rising places `changes`.

    Places are counted column by column.
    """
    runs = len(changes) + 1
    if len(changes) and changes[-1] == pixels:
        runs -= 1
    letters = np.empty(13 * runs, np.uint8)  # 64 bits take 13 letters at most
    length = 0
    start, last, before = np.int64(0), np.int64(0), np.int64(0)
    for i in range(runs):
        end = changes[i] if i < len(changes) else pixels
        run = end - start
        value = run - before if i > 2 else run
        start, last, before = end, run, last
        more = True
        while more:
            five, value = value & 31, value >> 5
            more = value != (-1 if five & 16 else 0)
            letters[length] = five + 32 * more + 48
            length += 1
    return letters[:length]


@compiled(nogil=True)
def faults(letters, ends_N, pixels):
    """(N,) uint8: what keeps masks from the C code, which loops for ever or reads beyond its memory.

    letters: uint8, those of all masks one after the other; ends_N: where each mask's end. 0: nothing; DAMAGED;
    MISFIT: its runs do not fill `pixels`; SPLIT: sound, but a run of no pixels lies between two others, where
    pycocotools stops counting.
    """
    faults_N = np.zeros(len(ends_N), np.uint8)
    at = 0
    for n in range(len(ends_N)):
        total, last, before = np.int64(0), np.int64(0), np.int64(0)
        run = 0
        while at < ends_N[n]:
            value, at = _number(letters, at, ends_N[n])
            if at < 0:
                faults_N[n] = DAMAGED
                break
            if run > 2:
                value += before
            before, last = last, value
            total += value
            if value < 0 or total > pixels:
                faults_N[n] = MISFIT
                break
            if value == 0 and run > 0:
                faults_N[n] = SPLIT
            run += 1
        if faults_N[n] in (0, SPLIT) and total != pixels:
            faults_N[n] = MISFIT
        at = ends_N[n]
    return faults_N


@compiled
def runs(letters):
    """int64 run lengths of one mask in which `faults` finds nothing but SPLIT."""
    found = np.empty(len(letters), np.int64)
    at, run = 0, 0
    while at < len(letters):
        found[run], at = _number(letters, at, len(letters))
        if run > 2:
            found[run] += found[run - 2]
        run += 1
    return found[:run]


@compiled(nogil=True)
def _number(letters, at, end):
    """The number that begins at `at`, and where the next begins: -1 if this one is no sound number of 30 bits."""
    value, shift = np.int64(0), 0
    while at < end and shift < 30:
        letter = np.int64(letters[at]) - 48
        if letter < 0 or letter > 63:
            return value, -1
        value |= (letter & 31) << shift
        shift += 5
        at += 1
        if letter & 32 == 0:
            return (value | -1 << shift if letter & 16 else value), at
    return value, -1


@compiled
def _draw(letters, height, first_row, columns, drawn):
    """Set the pixels of `drawn` whose row and column a run covers; first_row: the first drawn row at or below each."""
    at, run, column = 0, 0, 0
    start, last, before = np.int64(0), np.int64(0), np.int64(0)
    while 0 <= at < len(letters):
        value, at = _number(letters, at, len(letters))
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


@compiled(nogil=True)
def drawn_words(letters, ends_N, height, first_row, first_column):
    """The boxes, words and their beginnings, as in `PackedMasks`, of masks drawn at some of their rows and columns.

    letters: uint8, those of all masks one after the other; ends_N: where each mask's end. first_row, first_column: for
    each row or column the first drawn one at or after it, and last how many are drawn.
    """
    canvas = np.zeros((first_row[-1], (first_column[-1] + 63) // 64), np.uint64)
    boxes = np.zeros((len(ends_N), 4), np.int64)
    first = np.zeros(len(ends_N), np.int64)
    words = np.empty(canvas.size, np.uint64)
    count = at = 0
    for n in range(len(ends_N)):
        run, column = 0, 0
        start, last, before = np.int64(0), np.int64(0), np.int64(0)
        row0, word0, row1, word1 = canvas.shape[0], canvas.shape[1], 0, 0
        while 0 <= at < ends_N[n]:
            value, at = _number(letters, at, ends_N[n])
            if run > 2:
                value += before
            before, last = last, value
            end = start + value
            while run % 2 and column < len(first_column) - 1 and column * height < end:
                top = first_row[min(height, max(0, start - column * height))]
                bottom = first_row[min(height, end - column * height)]
                left, right = first_column[column], first_column[column + 1]
                if top < bottom and left < right:
                    row0, word0 = min(row0, top), min(word0, left // 64)
                    row1, word1 = max(row1, bottom), max(word1, (right + 63) // 64)
                    for x in range(left, right):
                        bit = np.uint64(1) << np.uint64(x % 64)
                        for y in range(top, bottom):
                            canvas[y, x // 64] |= bit
                if end < (column + 1) * height:  # the next run of the mask may lie in the same column
                    break
                column += 1
            start = end
            run += 1
        at = ends_N[n]
        first[n] = count
        if row1:
            boxes[n, 0], boxes[n, 1], boxes[n, 2], boxes[n, 3] = row0, word0, row1, word1
            size = (row1 - row0) * (word1 - word0)
            if count + size > len(words):
                more = np.empty(2 * (count + size), np.uint64)
                for k in range(count):
                    more[k] = words[k]
                words = more
            for y in range(row0, row1):
                for w in range(word0, word1):
                    words[count] = canvas[y, w]
                    canvas[y, w] = 0
                    count += 1
    return boxes, words[:count], first
