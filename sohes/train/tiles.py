"""Windows of a weak view, cut from the photograph's own pixels: what the teacher of phase 3 looks at more closely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sohes.data.imaging import letterbox
from sohes.masks.windows import Box, Window, windows
from sohes.params import TilesParams
from sohes.train.augment import View


@dataclass(frozen=True)
class Tiles:
    """Windows of one weak view, each filling a square of its own.

    squares: (S, S, 3) uint8 each.  windows: in pixels of the weak view.  contents: the (h, w) of each square that show
    its window, from the upper left corner.
    """

    squares: tuple[np.ndarray, ...]
    windows: tuple[Window, ...]
    contents: tuple[tuple[int, int], ...]


NO_TILES = Tiles((), (), ())


def cut_tiles(image_HW3: np.ndarray, weak: View, shown: Box, params: TilesParams) -> Tiles:
    """The windows of `params`, without the whole image, of a photograph that `weak` flips and fits.

    Only those that meet `shown`, the part of the weak view that the student sees.
    """
    top, left, bottom, right = shown
    of_view = windows(weak.resized_hw, levels=params.levels, overlap=params.overlap)[1:]
    seen = [w for w in of_view if w.box[0] < bottom and w.box[2] > top and w.box[1] < right and w.box[3] > left]
    flipped = image_HW3[:, ::-1] if weak.flip else image_HW3
    sides = np.array(image_HW3.shape[:2])
    cut = []
    for window in seen:
        corners = np.rint(np.reshape(window.box, (2, 2)) * sides / weak.resized_hw).astype(np.int64)
        y0, x0 = np.minimum(corners[0], sides - 1)
        y1, x1 = np.maximum(corners[1], (y0 + 1, x0 + 1))
        cut.append(letterbox(flipped[y0:y1, x0:x1], weak.canvas_hw[0]))
    return Tiles(tuple(square for square, _ in cut), tuple(seen), tuple(content for _, content in cut))
