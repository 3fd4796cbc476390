"""Masks as (N, H, W) boolean pictures, and what follows from the pixels that they share."""

from __future__ import annotations

import numpy as np

from sohes.masks import packed


def bounding_boxes(masks_NHW: np.ndarray) -> np.ndarray:
    """(N, 4) int64 half-open boxes (y0, x0, y1, x1); all zeros for an empty mask."""
    return packed.nonzero_boxes(masks_NHW)


def pixel_counts(masks_NHW: np.ndarray) -> np.ndarray:
    """(N,) int64 areas. One by one is ten times faster than `sum`, which converts all masks to integers first."""
    return np.array([np.count_nonzero(mask) for mask in masks_NHW], np.int64)


def intersections(masks_NHW: np.ndarray) -> np.ndarray:
    """(N, N) int64 pixels shared by each pair; the diagonal holds the areas.

    Counted on packed bits: some 30 times faster than a matrix product of 100 flattened masks of 1024 x 1024.
    """
    return packed.intersections(packed.pack(masks_NHW, size=masks_NHW.shape[1:]))


def iou_from_intersections(shared_NN: np.ndarray) -> np.ndarray:
    """(N, N) float64 IoU from `intersections`; 0 where both masks are empty."""
    area = np.diagonal(shared_NN)
    union = area[:, None] + area[None, :] - shared_NN
    return np.divide(shared_NN, union, out=np.zeros(union.shape), where=union > 0)


def nms_from_iou(iou_NN: np.ndarray, order: np.ndarray, *, nms_iou: float) -> np.ndarray:
    """(K,) int64 indices kept by greedy non-maximum suppression in `order`: a mask is dropped if an earlier kept one
    has IoU above `nms_iou` with it. An empty mask, whose IoU with any is 0, stays: `packed.suppress` drops it."""
    kept: list[int] = []
    for i in order:
        if not kept or iou_NN[i, kept].max() <= nms_iou:
            kept.append(int(i))
    return np.array(kept, np.int64)
