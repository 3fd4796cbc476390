"""Masks drawn over their photograph: what the report, `sohes segment` and the flow's artifacts show."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from sohes import masks
from sohes.data.imaging import fit, fitted_size
from sohes.masks import forest, packed
from sohes.masks.stretch import encode_stretched, packed_at
from sohes.structures import MaskSet

LEVEL_NAMES = ("whole", "parts", "subparts")
_ALIKE = 0.6  # IoU
_PICTURE = 0.95  # of all pixels: more is the picture itself
_COMPARED = 512  # pixels of the longer side on which masks are compared
_GOLDEN_RATIO = 0.618033988749895  # hues this far apart stay distinct however many are drawn


def colours(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB, distinct hues in a fixed order."""
    hsv = [((i * _GOLDEN_RATIO) % 1.0, 0.6 + 0.3 * (i % 2), 0.95) for i in range(count)]
    return np.array([colorsys.hsv_to_rgb(*c) for c in hsv]).reshape(-1, 3).dot(255).round().astype(np.uint8)


def overlay(
    image_HW3: np.ndarray,
    found: MaskSet,
    *,
    level: int | None = None,
    deeper: bool = False,
    opacity: float = 0.55,
) -> np.ndarray:
    """(H, W, 3) uint8: the photograph with its masks tinted and outlined, larger ones below.

    level: draw one depth of the forest only (0 whole entities, 1 their parts, ...); None draws all. deeper: also what
    lies below it.
    A part takes the hue of its place in the set, so the same mask has the same colour in every picture.
    """
    palette, areas = colours(len(found)), masks.areas(found)
    chosen = np.flatnonzero(areas)  # an empty mask has no outline
    if level is not None:
        levels_N = forest.levels(found.parents)
        chosen = chosen[(levels_N >= level if deeper else levels_N == level)[chosen]]
    boxes = masks.boxes_xywh(found).astype(int)
    dense = {i: _in_box(found, i, boxes[i]) for i in chosen.tolist()}
    topmost_HW = np.full(image_HW3.shape[:2], -1, np.int32)
    for i in chosen[np.argsort(-areas[chosen], kind="stable")].tolist():
        np.copyto(topmost_HW[_inside(boxes[i])], i, where=dense[i])
    drawn = image_HW3.copy()
    if len(chosen):
        tints = palette.take(topmost_HW, axis=0, mode="clip")  # -1 is not copied below
        tinted = cv2.addWeighted(image_HW3, 1 - opacity, tints, opacity, 0)
        cv2.copyTo(tinted, (topmost_HW >= 0).view(np.uint8), drawn)
    thickness = max(1, round(max(image_HW3.shape) / 700))
    for i in chosen.tolist():
        outlines, _ = cv2.findContours(
            dense[i].view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(int(boxes[i, 0]), int(boxes[i, 1]))
        )
        cv2.drawContours(drawn, outlines, -1, (palette[i] // 2).tolist(), thickness)
    return drawn


def _in_box(found: MaskSet, index: int, box_xywh: np.ndarray) -> np.ndarray:
    x, y, width, height = box_xywh.tolist()
    return masks.sample(found, index, np.arange(y, y + height), np.arange(x, x + width))


def _inside(box_xywh: np.ndarray) -> tuple[slice, slice]:
    x, y, width, height = box_xywh.tolist()
    return slice(y, y + height), slice(x, x + width)


def reduced(image_HW3: np.ndarray, found: MaskSet, *, longest: int) -> tuple[np.ndarray, MaskSet]:
    """Photograph and masks with the longer side cut down to `longest` pixels; as they are if it is not longer."""
    image = fit(image_HW3, longest)
    return image, reduced_masks(found, image.shape[:2])


def reduced_masks(found: MaskSet, size: tuple[int, int]) -> MaskSet:
    """The masks at the (height, width) of a reduced photograph."""
    if (found.height, found.width) == size:
        return found
    return replace(found, height=size[0], width=size[1], rles=encode_stretched(packed_at(found, size), size))


def contact_sheet(image_HW3: np.ndarray, found: MaskSet, *, gap: int = 8, longest: int = 1024) -> np.ndarray:
    """Photograph, whole entities, parts, and all below them, side by side, with their names and numbers of masks:
    (h + the caption, 4w + 3 gap, 3) uint8, h and w at most `longest`.

    A mask of more than half of its parent is shown beside it: what is nearly the same makes no level of its own.
    """
    image_HW3, found = reduced(image_HW3, found, longest=longest)
    found = replace(found, parents=forest.larger_parents(found.parents, masks.areas(found), times=2))
    levels_N = forest.levels(found.parents)
    panels = [captioned(image_HW3, "photograph")]
    for level, name in enumerate(LEVEL_NAMES):
        last = level == len(LEVEL_NAMES) - 1
        count = int((levels_N >= level if last else levels_N == level).sum())
        panels.append(captioned(overlay(image_HW3, found, level=level, deeper=last), f"{name}: {count or 'none'}"))
    return side_by_side(panels, gap=gap)


def with_parents(drawn_HW3: np.ndarray, found: MaskSet) -> np.ndarray:
    """The picture with a line from the middle of each part, a dot, to the middle of its parent."""
    drawn = drawn_HW3.copy()
    dense = masks.decode(found)
    middles = [
        tuple(int(np.median(axis)) for axis in np.nonzero(mask)[::-1]) if mask.any() else (0, 0) for mask in dense
    ]
    width = max(1, round(max(drawn.shape) / 400))
    for child, parent in enumerate(found.parents):
        if parent >= 0:
            cv2.line(drawn, middles[child], middles[parent], (255, 255, 255), width, cv2.LINE_AA)
            cv2.circle(drawn, middles[child], 2 * width, (255, 255, 255), -1, cv2.LINE_AA)
    return drawn


def captioned(panel_HW3: np.ndarray, words: str) -> np.ndarray:
    """The panel with a line of text below, in letters that fit its width."""
    width = panel_HW3.shape[1]
    scale = min(0.6, width / 400)
    strip = np.full((round(36 * scale) + 4, width, 3), 255, np.uint8)
    cv2.putText(strip, words, (4, round(24 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([panel_HW3, strip])


def side_by_side(panels: list[np.ndarray], *, gap: int = 8) -> np.ndarray:
    """Panels of one height in a row on white."""
    spacer = np.full((panels[0].shape[0], gap, 3), 255, np.uint8)
    row = [panels[0]]
    for panel in panels[1:]:
        row += [spacer, panel]
    return np.concatenate(row, axis=1)


def mosaic(rows: Sequence[Sequence[tuple[str, np.ndarray]]], *, width: int = 320, gap: int = 8) -> np.ndarray:
    """Rows of panels, each `width` pixels wide with its caption below, (H, W, 3) uint8 on white.

    rows: (caption, panel) by row; every row has as many, and the panels of a row have one size.
    """
    drawn = [side_by_side([captioned(of_width(panel, width), c) for c, panel in row], gap=gap) for row in rows]
    return np.concatenate(drawn)


def of_width(image_HW3: np.ndarray, width: int) -> np.ndarray:
    """The image, reduced or enlarged to `width` pixels."""
    height = max(1, round(image_HW3.shape[0] * width / image_HW3.shape[1]))
    shrinks = width < image_HW3.shape[1]
    return cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def strongest(found: MaskSet, *, min_score: float = 0.4, at_most: int = 60) -> MaskSet:
    """The masks worth drawing (`places_of_strongest`), relinked to their nearest ancestors among them."""
    return forest.select(found, places_of_strongest(found, min_score=min_score, at_most=at_most))


def places_of_strongest(found: MaskSet, *, min_score: float = 0.4, at_most: int = 60) -> np.ndarray:
    """(K,) int64, rising: the masks above `min_score`, the best `at_most` of them, or the ten best if fewer pass.

    One that looks like a stronger one, with an IoU above 0.6, is left out: recall wants both, the eye one. So is one of
    nearly the whole picture, unless there are no others: it would be the only whole entity, and show nothing.
    """
    order = np.argsort(-found.scores, kind="stable")
    small = fitted_size(found.height, found.width, _COMPARED)
    drawn = packed_at(found, small)
    share = packed.areas(drawn) / (small[0] * small[1])
    if (share <= _PICTURE).any():
        order = order[share[order] <= _PICTURE]
    distinct = order[packed.suppress(drawn[order], nms_iou=_ALIKE)]
    passing = int((found.scores[distinct] >= min_score).sum())
    return np.sort(distinct[: min(at_most, max(10, passing))])
