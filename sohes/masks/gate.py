"""The gate that every mask from outside passes, whatever its format.

The C code behind it trusts what it gets: run lengths that do not fill their picture make it loop for ever, and one NaN
among the corners of a polygon makes it ask for gigabytes. What is unambiguous is read: numbers as strings, corners as
pairs, lists within lists. ValueError says in words what is wrong with anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sohes.masks import rle

MOST_PIXELS = 2**29  # of an image: pycocotools counts runs in 30 bits with their sign
OUTSIDE = 2  # longer sides of the image that a polygon may reach beyond it
LONGEST_OUTLINE = 1_000_000  # pixels of a mask's polygons: pycocotools takes 80 bytes for each
_DEPTH = 4  # lists within lists
_NOT_NUMBERS = (TypeError, ValueError, OverflowError)

Size = tuple[int, int]  # height, width


def whole(value: Any) -> int | None:
    """The whole number of 64 bits that a value unambiguously is (7, 7.0, "7"), or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value)
    except (ValueError, OverflowError):  # a word, NaN, infinity
        return None
    same = isinstance(value, str) or number == value
    return number if same and abs(number) < 2**63 else None


def number(value: Any) -> float | None:
    """The finite number that a value unambiguously is (0.5, 1, "0.5"), or None."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except _NOT_NUMBERS:
        return None
    return found if math.isfinite(found) else None


def flag(value: Any) -> bool:
    """Whether a flag is set: 0 and 1 as numbers, booleans or strings; None is not set."""
    found = {"": 0, "0": 0, "false": 0, "none": 0, "1": 1, "true": 1}.get(str(value).strip().lower())
    found = whole(value) if found is None else found
    if found not in (0, 1):
        raise ValueError(f"a flag is 0 or 1 (got {value!r:.80})")
    return bool(found)


def size_of(holder: Mapping[str, Any]) -> Size:
    """The size in the keys `height` and `width`."""
    return checked_size(holder.get("height"), holder.get("width"))


def checked_size(height: Any, width: Any) -> Size:
    """A size that masks may have."""
    size = whole(height), whole(width)
    if size[0] is None or size[1] is None or min(size[0], size[1]) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"height and width are whole numbers from 1, of {MOST_PIXELS:,} pixels at most (got {height!r:.40} and "
            f"{width!r:.40})"
        )
    return size[0], size[1]


# ---------------------------------------------------------------- one mask


def run_lengths(segmentation: Any, size: Size, *, in_sides: bool = False) -> bytes:
    """A mask as compressed run lengths, from polygons or from run lengths, compressed or not.

    Compressed ones are given back as they came: they pass `checked`, many at a time. Polygons without area give a mask
    without pixels. in_sides: coordinates are fractions of the image's sides.
    """
    if isinstance(segmentation, list):
        return _drawn(segmentation, size, (size[1], size[0]) if in_sides else (1, 1))
    if not isinstance(segmentation, dict):
        raise ValueError("there is no segmentation" if segmentation is None else "it is neither polygons nor runs")
    counts, own = segmentation.get("counts"), segmentation.get("size", size)
    if own != size and own != list(size) and _whole_pair(own) != size:
        raise ValueError(f"its size {own!r:.80} is not the image's {list(size)}")
    if isinstance(counts, bytes):
        return counts
    if isinstance(counts, str):
        return counts.encode("utf-8", "surrogatepass")
    return _from_runs(counts, size)


def checked(rles: Sequence[bytes], size: Size) -> tuple[bytes, ...]:
    """Compressed run lengths that fill a picture of this size, without empty runs in between.

    Raises `Unsound`, with its place, for the first mask that does not.
    """
    letters = np.frombuffer(b"".join(rles), np.uint8)
    ends_N = np.cumsum(np.fromiter(map(len, rles), np.int64, len(rles)))
    faults_N = rle.faults(letters, ends_N, size[0] * size[1])
    sound = list(rles)
    for place in np.flatnonzero(faults_N).tolist():
        if faults_N[place] != rle.SPLIT:
            raise Unsound(place, _IN_WORDS[int(faults_N[place])].format(*size))
        sound[place] = _joined(rle.runs(np.frombuffer(rles[place], np.uint8)), size)
    return tuple(sound)


class Unsound(ValueError):
    """What is wrong with one of several masks. place: which."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


_IN_WORDS = {
    rle.DAMAGED: "its run lengths are cut short, or hold letters that run lengths do not have (bytes are written with "
    ".decode(), not with str())",
    rle.MISFIT: "its run lengths do not fill its size {} x {}",
}


def _whole_pair(value: Any) -> tuple[int | None, ...]:
    return tuple(map(whole, value)) if isinstance(value, list | tuple) and len(value) == 2 else ()


def _from_runs(counts: Any, size: Size) -> bytes:
    try:
        runs_R = np.asarray(counts, np.float64)
    except _NOT_NUMBERS:
        raise ValueError("its run lengths are no numbers") from None
    if runs_R.ndim != 1 or not np.isfinite(runs_R).all() or (runs_R < 0).any() or (runs_R % 1).any():
        raise ValueError("its run lengths are no whole numbers")
    if runs_R.sum() != size[0] * size[1]:
        raise ValueError(_IN_WORDS[rle.MISFIT].format(*size))
    return _joined(runs_R.astype(np.int64), size)


def _joined(runs_R: np.ndarray, size: Size) -> bytes:
    """Compressed, with the neighbours of every empty run as one."""
    places, times = np.unique(np.cumsum(runs_R)[:-1], return_counts=True)
    return rle.compressed(places[times % 2 == 1], size[0] * size[1]).tobytes()


def _drawn(segmentation: list, size: Size, scale: tuple[int, int]) -> bytes:
    polygons = [corners_K2 * scale for corners_K2 in _polygons(segmentation) if len(corners_K2) > 2]
    outline = 0.0
    longer = max(size)
    for corners_K2 in polygons:
        if not np.isfinite(corners_K2).all():
            raise ValueError("a coordinate is no finite number")
        if corners_K2.min() < -OUTSIDE * longer or corners_K2.max() > (1 + OUTSIDE) * longer:
            raise ValueError(f"a polygon reaches {np.abs(corners_K2).max():g}, far outside the image")
        outline += np.abs(corners_K2 - np.roll(corners_K2, 1, axis=0)).max(1).sum()
    if outline > LONGEST_OUTLINE:
        raise ValueError(f"its outline has {outline:,.0f} pixels, more than {LONGEST_OUTLINE:,}")
    if not polygons:
        return _joined(np.array([size[0] * size[1]]), size)
    found = coco_mask.frPyObjects([corners_K2.ravel() for corners_K2 in polygons], *size)
    return coco_mask.merge(found)["counts"]


def _polygons(value: list, depth: int = _DEPTH) -> Iterator[np.ndarray]:
    """The (K, 2) corners of each polygon in lists within lists: x, y, x, y, ... or pairs of them."""
    inner = [item for item in value if isinstance(item, list)]
    if inner and (len(inner) < len(value) or not depth):
        raise ValueError("its polygons are no lists of numbers")
    if not inner or all(len(item) == 2 and not isinstance(item[0], list) for item in inner):
        try:
            numbers = np.asarray(value, np.float64).ravel()
        except _NOT_NUMBERS:
            raise ValueError("a coordinate is no number") from None
        if len(numbers) % 2:
            raise ValueError(f"a polygon has {len(numbers)} coordinates, which make no pairs")
        yield numbers.reshape(-1, 2)
        return
    for item in inner:
        yield from _polygons(item, depth - 1)
