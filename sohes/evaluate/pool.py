"""The masks of several windows of one image as one set with one forest (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sohes import masks
from sohes.masks import forest, packed
from sohes.masks.stretch import packed_at
from sohes.structures import MaskSet


def pool(
    found: Sequence[MaskSet],
    factors: Sequence[float],
    *,
    size: tuple[int, int],
    nms_iou: float,
    coverage: bool,
    theta_cover: float,
    max_masks: int,
) -> tuple[MaskSet, np.ndarray]:
    """The best masks of all windows, best first, and the (N,) int64 window of each; a single set stays as it is.

    found: each window's masks, all in the image's frame. factors: what their scores are multiplied by.
    Masks are compared at `size` (height, width), which bounds time and memory: one with an IoU above `nms_iou` with a
    better one is dropped, and so is a speck that has no pixel at that size. Across windows, a mask is an ancestor of a
    smaller one if it covers at least `theta_cover` of it (paper 3.1, step 4). Within a window its own forest says what
    is related; with `coverage`, `forest.covered_else_said` does. The new forest keeps most of both.
    """
    of_window = np.repeat(np.arange(len(found)), [len(one) for one in found])
    if len(found) == 1:
        return found[0], of_window
    together = _concatenated(found, factors)
    by_score = np.argsort(-together.scores, kind="stable")
    drawn = packed_at(together, size)[by_score]
    distinct = packed.suppress(drawn, nms_iou=nms_iou)[:max_masks]
    kept = by_score[distinct]

    pooled, of_window = forest.select(together, kept), of_window[kept]
    areas = masks.areas(pooled)
    shared = packed.intersections(drawn[distinct])
    said = forest.forest_ancestors(pooled.parents) & (of_window[:, None] == of_window)
    if coverage:
        related = forest.covered_else_said(said, shared, theta_cover=theta_cover)
    else:
        covered = forest.ancestors_from_intersections(shared, theta_cover=theta_cover)
        related = np.where(of_window[:, None] == of_window, said, covered)
    parents = forest.forest_from_relation(related, areas, pooled.scores)
    return replace(pooled, parents=parents), of_window


def _concatenated(found: Sequence[MaskSet], factors: Sequence[float]) -> MaskSet:
    """All masks, window by window; each keeps its parent."""
    before = np.cumsum([0, *(len(one) for one in found[:-1])])
    return MaskSet(
        found[0].height,
        found[0].width,
        tuple(rle for one in found for rle in one.rles),
        np.concatenate([one.scores * np.float32(factor) for one, factor in zip(found, factors, strict=True)]),
        np.concatenate([np.where(one.parents < 0, -1, one.parents + n) for one, n in zip(found, before, strict=True)]),
        tuple(source for one in found for source in one.sources),
    )
