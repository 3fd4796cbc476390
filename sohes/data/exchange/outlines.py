"""Masks as polygons, for formats that have nothing else.

Outlines run along the edges of pixels: a pixel covers [i, i + 1), as in `sohes.data.imaging`. A polygon has one outline
and no holes in these formats, so a hole is joined to the outline around it by a bridge, a line that is walked there and
back and covers nothing. Filled by the even-odd rule or by winding numbers, the polygon is the part with its holes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.spatial import cKDTree

from sohes.masks import boxes_xywh, encode, sample
from sohes.structures import MaskSet

TOLERANCE = 0.7  # pixels that a simpler outline may lie beside the true one,
KEPT_IOU = 0.985  # as long as the part that it draws has this IoU with the true part


def part_polygons(masks: MaskSet) -> Iterator[list[np.ndarray]]:
    """For each mask the (K, 2) float64 corners x, y of its connected parts; none for a mask without a pixel."""
    for index, box in enumerate(boxes_xywh(masks).astype(int).tolist()):
        yield _parts(masks, index, *box)


def _parts(masks: MaskSet, index: int, x: int, y: int, width: int, height: int) -> list[np.ndarray]:
    if not width * height:  # OpenCV crashes on a picture of no pixels
        return []
    mask_HW = sample(masks, index, np.arange(y, y + height), np.arange(x, x + width)).astype(np.uint8)
    count, labels_HW, boxes, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
    polygons = []
    for part in range(1, count):
        left, top, w, h, _ = boxes[part].tolist()
        polygon_K2 = _polygon(labels_HW[top : top + h, left : left + w] == part)
        polygons.append(polygon_K2 + np.array([x + left, y + top], np.float64))
    return polygons


def bridged(rings: Sequence[np.ndarray]) -> np.ndarray:
    """(K, 2) corners of all rings as one, each joined to those before it where they are closest."""
    joined_K2 = rings[0]
    for ring_K2 in rings[1:]:
        distances, places = cKDTree(joined_K2).query(ring_K2)
        there = int(distances.argmin())
        here = int(places[there])
        there_and_back = np.roll(ring_K2, -there, axis=0)
        joined_K2 = np.concatenate([joined_K2[: here + 1], there_and_back, there_and_back[:1], joined_K2[here:]])
    return joined_K2


def rings(mask_HW: np.ndarray) -> list[np.ndarray]:
    """(K, 2) int64 corners x, y of every outline of a bool mask, exactly; the mask is on the right, all the way round.

    A corner is where an odd number of the four pixels around it is set, or two that touch there only, which counts
    twice. Along each line of the grid, the corners from left to right are in turn the two ends of a piece of outline;
    so are those from top to bottom. Each ring takes a piece across, one down, one across, ...
    """
    grid = np.pad(mask_HW, 1)
    nw, ne, sw, se = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    times = (nw ^ ne ^ sw ^ se).astype(np.int64) + 2 * ((nw == se) & (ne == sw) & (nw != ne))
    y_K, x_K = np.nonzero(times)
    repeats = times[y_K, x_K]
    y_K, x_K = np.repeat(y_K, repeats), np.repeat(x_K, repeats)
    downwards = np.lexsort((np.arange(len(x_K)), y_K, x_K))
    other_end = np.empty(len(x_K), np.int64)
    other_end[downwards] = downwards[np.arange(len(x_K)) ^ 1]
    vertical, below = other_end.tolist(), se[y_K, x_K].tolist()
    seen = bytearray(len(vertical))
    found = []
    for left in range(0, len(vertical), 2):
        if seen[left]:
            continue
        ring, start = [], left if below[left] else left + 1  # to the right where the mask lies below, else to the left
        corner = start
        while True:
            across = corner ^ 1
            seen[corner] = seen[across] = 1
            ring += [corner, across]
            corner = vertical[across]
            if corner == start:
                break
        found.append(np.stack([x_K[ring], y_K[ring]], 1))
    return found


def _polygon(part_HW: np.ndarray) -> np.ndarray:
    """One part as one polygon, with as few corners as KEPT_IOU allows."""
    exact = rings(part_HW)
    simple = bridged([_simpler(ring_K2) for ring_K2 in exact])
    drawn = coco_mask.merge(coco_mask.frPyObjects([simple.ravel().tolist()], *part_HW.shape))
    (true,) = encode(part_HW[None])
    iou = coco_mask.iou([drawn], [{"size": list(part_HW.shape), "counts": true}], [0])[0, 0]
    return simple if iou >= KEPT_IOU else bridged(exact)


def _simpler(ring_K2: np.ndarray) -> np.ndarray:
    """(L, 2) float64, from the middles of the pixels' edges: those of a staircase lie on one line."""
    steps_K2 = np.roll(ring_K2, -1, axis=0) - ring_K2
    lengths_K = np.abs(steps_K2).sum(1)
    corner = np.repeat(np.arange(len(ring_K2)), lengths_K)
    along = np.arange(len(corner)) - np.repeat(lengths_K.cumsum() - lengths_K, lengths_K) + 0.5
    middles = ring_K2[corner] + along[:, None] * np.sign(steps_K2)[corner]
    fewer = cv2.approxPolyDP(middles.astype(np.float32), TOLERANCE, closed=True)[:, 0].astype(np.float64)
    return fewer if len(fewer) > 2 else ring_K2
