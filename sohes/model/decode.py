"""Raw predictions of one image to masks, scores and a forest (paper 3.2).

Masks are chosen on the mask map, where they were predicted, and enlarged one by one straight into run lengths: memory
grows with the map, never with masks times image pixels.
"""

from __future__ import annotations

import math

import numpy as np

from sohes.masks import forest, intersections, iou_from_intersections, nms_from_iou
from sohes.masks.enlarge import encode_enlarged
from sohes.masks.windows import Box, touches_cut
from sohes.structures import Logits, MaskSet

STRIDE = 4  # input pixels to a cell of the mask map


def cells_shown(pixels: int, *, map_side: int, square_side: int) -> int:
    """How many of the `map_side` cells along a side of the square show its first `pixels`, or a part of them."""
    return -(-pixels * map_side // square_side)


def decode(
    logits: Logits,
    *,
    content_hw: tuple[int, int],
    image_hw: tuple[int, int],
    max_masks: int,
    mask_threshold: float,
    nms_iou: float,
    votes: bool,
    ancestor_threshold: float,
    coverage: bool,
    theta_cover: float,
    source: str,
    window: Box | None = None,
) -> MaskSet:
    """The masks of one image, or of one window of it, at the image's size, best score first.

    A score is the class probability of an entity times the mean mask probability inside the mask, as in Mask2Former's
    code; the paper only speaks of confidence. The NMS is ours.
    A mask is dropped if a better one has IoU above `nms_iou` with it, both as cells of the map; with `votes` the better
    one gets the score of `counted`. The forest is made of what the ancestor logits say, with `coverage` first of who
    covers whom (`forest.covered_else_said`), and without ancestor logits of that alone, all on the map's cells.

    content_hw: the input pixels, from the upper left corner, that show the window; by default that is the whole image.
    A mask that touches a side of the window inside the image is dropped, for it is only a piece.
    """
    window = window or (0, 0, *image_hw)
    rows, columns = (cells_shown(side, map_side=1, square_side=STRIDE) for side in content_hw)
    masks_Qhw = logits.mask_Qhw[:, :rows, :columns]
    level = _logit(mask_threshold)
    entity, nothing = logits.class_Q2.T
    scores_Q = sigmoid(entity - nothing) * _mean_inside(masks_Qhw, level)

    candidates = np.argsort(-scores_Q, kind="stable")[: np.count_nonzero(scores_Q > 0)]
    inside = masks_Qhw[candidates] > level
    uncut = ~touches_cut(inside, window, image_hw=image_hw)
    candidates, shared_NN = candidates[uncut], intersections(inside[uncut])
    iou_NN, scores_N = iou_from_intersections(shared_NN), scores_Q[candidates]
    kept = nms_from_iou(iou_NN, np.arange(len(candidates)), nms_iou=nms_iou)
    scores_K = counted(iou_NN, scores_N, kept, nms_iou=nms_iou) if votes else scores_N[kept]
    first = np.argsort(-scores_K, kind="stable")[:max_masks]
    kept, scores_K = kept[first], scores_K[first]
    best = candidates[kept]

    maps = (masks_Qhw[i] for i in best)
    rles, areas = encode_enlarged(maps, level, stride=STRIDE, content_hw=content_hw, image_hw=image_hw, window=window)
    drawn = np.flatnonzero(areas)  # a mask thinner than a pixel of a small image can miss every pixel's centre
    best, areas, scores_K = best[drawn], areas[drawn], scores_K[drawn]
    shared_KK = shared_NN[np.ix_(kept[drawn], kept[drawn])]
    if logits.ancestor_QQ is None:
        covering_KK = forest.ancestors_from_intersections(shared_KK, theta_cover=theta_cover)
        parents = forest.parents_from_ancestors(covering_KK & (areas[:, None] > areas[None, :]), areas)
    else:
        related_KK = sigmoid(logits.ancestor_QQ[np.ix_(best, best)]) > ancestor_threshold
        if coverage:
            related_KK = forest.covered_else_said(related_KK, shared_KK, theta_cover=theta_cover)
        parents = forest.forest_from_relation(related_KK, areas, scores_K)
    return MaskSet(*image_hw, tuple(rles[i] for i in drawn), scores_K, parents, (source,) * len(best))


def counted(iou_NN: np.ndarray, scores_N: np.ndarray, kept_K: np.ndarray, *, nms_iou: float) -> np.ndarray:
    """(K,) scores of the kept masks by the votes for each: v / (1 + v), v being its score and those of its duplicates.

    Ours: many queries find an entity, and few the same random piece. A duplicate has an IoU above `nms_iou`.
    """
    same_KN = iou_NN[kept_K] > nms_iou
    same_KN[np.arange(len(kept_K)), kept_K] = True
    votes_K = (same_KN * scores_N).sum(1)
    return votes_K / (1 + votes_K)


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in the input's precision."""
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the answer is 0
        return 1 / (1 + np.exp(-logits))


def _mean_inside(masks_Qhw: np.ndarray, level: float) -> np.ndarray:
    """(Q,) mean mask probability over the cells above `level`; 0 for a mask without any."""
    means = np.zeros(len(masks_Qhw), np.float32)
    for q, map_hw in enumerate(masks_Qhw):
        if len(inside := map_hw[map_hw > level]):
            means[q] = sigmoid(inside).mean()
    return means
