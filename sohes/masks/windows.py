"""Where to look closer (ours): the image, and smaller windows that cover it evenly, level by level.

A network that sees a few hundred pixels finds no small masks. Each window fills its whole input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int]  # half-open: y0, x0, y1, x1


@dataclass(frozen=True)
class Window:
    """A box of an image's pixels. level: 0 for the whole image, k for the k-th level of smaller windows."""

    box: Box
    level: int

    @property
    def longer(self) -> int:
        y0, x0, y1, x1 = self.box
        return max(y1 - y0, x1 - x0)


def windows(image_hw: tuple[int, int], *, levels: Sequence[float], overlap: float) -> list[Window]:
    """The whole image, then the windows of every level below 1, row by row.

    levels: the windows' sides, as fractions of the image's, in any order. overlap: at least this fraction of a window's
    side is shared with its neighbour, so whatever is smaller than that lies whole in some window.
    """
    found = {(0, 0, *image_hw): 0}
    for level, fraction in enumerate(sorted({f for f in levels if f < 1}, reverse=True), start=1):
        rows, columns = (_intervals(side, fraction, overlap) for side in image_hw)
        for y0, y1 in rows:
            for x0, x1 in columns:
                found.setdefault((y0, x0, y1, x1), level)  # in an image of a few pixels, windows coincide
    return [Window(box, level) for box, level in found.items()]


def _intervals(side: int, fraction: float, overlap: float) -> list[tuple[int, int]]:
    count = 1 + max(1, math.ceil((1 - fraction) / (fraction * (1 - overlap)) - 1e-9))
    length = math.ceil(fraction * side)
    starts = [i * (side - length) // (count - 1) for i in range(count)]
    return [(start, start + length) for start in starts]


def touches_cut(
    masks_Nhw: np.ndarray, box_yxyx: Sequence[int] | np.ndarray, *, image_hw: tuple[int, int]
) -> np.ndarray:
    """(N,) bool: whether a mask on a window's grid touches a side of the window inside the image."""
    touching = np.zeros(len(masks_Nhw), bool)
    for rows, columns in cut_sides(box_yxyx, image_hw=image_hw):
        touching |= masks_Nhw[:, rows, columns].any(1)
    return touching


def cut_sides(
    box_yxyx: Sequence[int] | np.ndarray, *, image_hw: tuple[int, int]
) -> list[tuple[slice | int, slice | int]]:
    """The sides of a window that lie inside the image, as indices of the rows and columns of the window's grid."""
    y0, x0, y1, x1 = box_yxyx
    every = slice(None)
    sides: list[tuple[bool, tuple[slice | int, slice | int]]] = [
        (bool(y0 > 0), (0, every)),
        (bool(x0 > 0), (every, 0)),
        (bool(y1 < image_hw[0]), (-1, every)),
        (bool(x1 < image_hw[1]), (every, -1)),
    ]
    return [index for is_cut, index in sides if is_cut]
