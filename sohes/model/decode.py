"""Raw predictions of one image to masks, scores and a forest (paper 3.2 and appendix A).

Masks are chosen on the mask map, where they were predicted, and enlarged one by one straight into run lengths: memory
grows with the map, never with masks times image pixels.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from sohes.masks import forest, intersections, iou_from_intersections, nms_from_iou
from sohes.structures import MaskSet

STRIDE = 4  # input pixels to a cell of the mask map


def decode(
    class_logits_Q2: Tensor,
    mask_logits_Qhw: Tensor,
    ancestor_logits_QQ: Tensor | None,
    *,
    content_hw: tuple[int, int],
    image_hw: tuple[int, int],
    max_masks: int,
    mask_threshold: float,
    nms_iou: float,
    ancestor_threshold: float,
    theta_cover: float,
    source: str,
) -> MaskSet:
    """The masks of one image at its own size, best score first.

    Without ancestor logits the forest comes from coverage above `theta_cover` (paper 3.1, step 4), on the map's cells.

    content_hw: the part of the input square, from its upper left corner and in its pixels, that holds the image.
    A score is the class probability of an entity times the mean mask probability inside the mask (paper, appendix A).
    A mask falls if a better one has IoU above `nms_iou` with it, both as cells of the map.
    """
    rows, columns = (-(-side // STRIDE) for side in content_hw)
    mask_logits_Qhw = mask_logits_Qhw[:, :rows, :columns].detach().float().cpu()
    level = _logit(mask_threshold)
    scores_Q = class_logits_Q2.detach().float().cpu().softmax(-1)[:, 0] * _mean_inside(mask_logits_Qhw, level)

    candidates = torch.argsort(scores_Q, descending=True, stable=True)[: int((scores_Q > 0).sum())].numpy()
    logits_Qhw = mask_logits_Qhw.numpy()
    shared_NN = intersections(logits_Qhw[candidates] > level)
    kept = nms_from_iou(iou_from_intersections(shared_NN), np.arange(len(candidates)), nms_iou=nms_iou)
    best = candidates[kept[:max_masks]]

    vertical, horizontal = (_places(*sides) for sides in zip(content_hw, image_hw, strict=True))
    enlarged = [_enlarge(np.ascontiguousarray(logits_Qhw[i].T), level, *vertical, *horizontal) for i in best]
    areas = np.array([area for _, area in enlarged], np.int64)
    # a mask thinner than a pixel of a smaller image can miss every pixel's centre
    there = np.flatnonzero(areas)
    best, areas = best[there], areas[there]
    if ancestor_logits_QQ is None:
        places = kept[:max_masks][there]
        covering_NN = forest.ancestors_from_intersections(shared_NN[np.ix_(places, places)], theta_cover=theta_cover)
        parents = forest.parents_from_ancestors(covering_NN & (areas[:, None] > areas[None, :]), areas)
    else:
        index = torch.from_numpy(best)
        probability_NN = ancestor_logits_QQ.detach().float().cpu()[index][:, index].sigmoid().numpy()
        parents = forest.forest_from_probabilities(probability_NN, areas, threshold=ancestor_threshold)
    rles = tuple(enlarged[i][0].tobytes() for i in there)
    return MaskSet(*image_hw, rles, scores_Q.numpy()[best], parents, (source,) * len(best))


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def _mean_inside(mask_logits_Qhw: Tensor, level: float, chunk: int = 32) -> Tensor:
    """(Q,) mean mask probability over the cells above `level`; 0 for a mask without any."""
    means = []
    for logits in mask_logits_Qhw.flatten(1).split(chunk):
        inside = logits > level
        means.append((logits.sigmoid() * inside).sum(1) / inside.sum(1).clamp(min=1))
    return torch.cat(means)


def _places(content: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `side` pixels the cell before its centre, int64, and the share of the next cell, float32.

    Cells that hold padding only are never asked: the last one with content is repeated, as at an image's border.
    """
    place = (np.arange(side) + 0.5) * (content / side / STRIDE) - 0.5
    place = place.clip(0, -(-content // STRIDE) - 1)
    lower = np.floor(place).astype(np.int64)
    return lower, (place - lower).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _enlarge(logits_wh, level, row_cell, row_share, column_cell, column_share):
    """COCO's run lengths, as compressed bytes, and the area of one bilinearly enlarged mask.

    Column by column, as COCO counts. Between two rows of cells the logits are linear, so only where one is above
    `level` and the other is not must the pixels themselves be looked at.
    """
    w, h = logits_wh.shape
    height, width = len(row_cell), len(column_cell)
    first_row = np.searchsorted(row_cell, np.arange(h + 1))  # of the pixels that follow each cell
    nonempty = np.zeros(w + 1, np.bool_)
    for c in range(w):
        nonempty[c] = (logits_wh[c] > level).any()
    runs = np.empty((64, 2), np.int64)  # half-open, in pixels counted down the columns
    count, area = 0, 0
    profile = np.empty(h + 1, np.float32)
    for x in range(width):
        c = column_cell[x]
        share = column_share[x]
        if not (nonempty[c] or (share > 0 and nonempty[c + 1])):
            continue
        left, right = logits_wh[c], logits_wh[min(c + 1, w - 1)]
        for r in range(h):
            profile[r] = left[r] + share * (right[r] - left[r])
        profile[h] = profile[h - 1]
        for r in range(h):
            a, b = profile[r], profile[r + 1]
            if a <= level and b <= level:
                continue
            start, stop = first_row[r], first_row[r + 1]
            if not (a > level and b > level):
                while start < stop and a + row_share[start] * (b - a) <= level:
                    start += 1
                while stop > start and a + row_share[stop - 1] * (b - a) <= level:
                    stop -= 1
            if start == stop:
                continue
            start, stop = start + x * height, stop + x * height
            area += stop - start
            if count and runs[count - 1, 1] == start:
                runs[count - 1, 1] = stop
                continue
            if count == len(runs):
                longer = np.empty((2 * count, 2), np.int64)
                longer[:count] = runs
                runs = longer
            runs[count] = start, stop
            count += 1
    return _compress(runs[:count], height * width), area


@numba.njit(cache=True, nogil=True)
def _compress(runs, pixels):
    """COCO's text of run lengths: differences to the last but one, five bits a byte, lowest first."""
    counts = np.empty(2 * len(runs) + 1, np.int64)
    end = 0
    for i in range(len(runs)):
        counts[2 * i] = runs[i, 0] - end
        counts[2 * i + 1] = runs[i, 1] - runs[i, 0]
        end = runs[i, 1]
    counts[-1] = pixels - end
    used = len(counts) if counts[-1] else len(counts) - 1
    text = np.empty(13 * len(counts), np.uint8)  # 64 bits make 13 bytes at most
    length = 0
    for i in range(used):
        rest = counts[i] - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            low = rest & 31
            rest >>= 5
            more = rest != (-1 if low & 16 else 0)
            text[length] = low + (32 if more else 0) + 48
            length += 1
    return text[:length].copy()
