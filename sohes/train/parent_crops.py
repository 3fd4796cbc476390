"""The teacher looks again, inside crops of its own large masks, for parts too small to be found in the whole view.

Not in the paper; later work reports that it gains a few points of AR. Off unless `correct.parent_crops` is set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import masks
from sohes.masks import forest
from sohes.params import CorrectParams
from sohes.structures import ModelOutput
from sohes.train import augment
from sohes.train.augment import View
from sohes.train.lesson import Lesson, teach

_STRIDE = 4  # overlaps are counted on every fourth pixel of both axes, the network's own mask map


@torch.no_grad()
def with_children(
    lesson: Lesson,
    weak_3SS: Tensor,
    weak: View,
    teacher: Callable[[Tensor], ModelOutput],
    params: CorrectParams,
    *,
    rng: np.random.Generator,
) -> Lesson:
    """The lesson, and what the teacher finds in crops of its `parent_crops` largest masks, in one forest.

    A mask found in a crop is added if at least `child_cover` of it lies in the mask that was cropped and it duplicates
    none (IoU over `nms_iou`). None of the lesson's masks makes way for it, but `max_targets` still applies.
    weak_3SS: the normalised weak view. Only masks of `parent_min_fraction` of the image or more are cropped.
    """
    wide = np.flatnonzero(lesson.area_fractions_K >= params.parent_min_fraction)
    chosen = wide[np.argsort(-lesson.area_fractions_K[wide], kind="stable")][: params.parent_crops]
    if not len(chosen):
        return lesson
    boxes = [_box(lesson.masks_KSS[k]) for k in chosen]
    size = weak_3SS.shape[-1]
    crops = [weak_3SS[None, :, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes]
    output = teacher(torch.cat([F.interpolate(c, (size, size), mode="bilinear", align_corners=False) for c in crops]))
    found = [lesson.masks_KSS]
    for b, (k, box) in enumerate(zip(chosen, boxes, strict=True)):
        inside = teach(
            output.class_logits_BQ2[b], output.mask_logits_BQhw[b], augment.whole(size, size), params, rng=rng
        )
        found.append(_children(inside.masks_KSS, box, lesson.masks_KSS[k], child_cover=params.child_cover))
    return _joined(torch.cat(found), len(lesson.parents_K), weak, params, rng=rng)


def _box(mask_SS: Tensor) -> tuple[int, int, int, int]:
    """Half-open box (y0, x0, y1, x1) of a mask that is not empty."""
    rows, columns = (torch.nonzero(mask_SS.any(axis)).flatten() for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _children(in_crop_MSS: Tensor, box: tuple[int, int, int, int], parent_SS: Tensor, *, child_cover: float) -> Tensor:
    """(M', S, S) bool: a crop's masks in the whole view; only those inside the parent and smaller than it."""
    y0, x0, y1, x1 = box
    placed = torch.zeros_like(in_crop_MSS)
    if len(placed):
        small = F.interpolate(in_crop_MSS[:, None].float(), (y1 - y0, x1 - x0), mode="nearest-exact")[:, 0]
        placed[:, y0:y1, x0:x1] = small > 0
    areas, shared = placed.sum((1, 2)), (placed & parent_SS).sum((1, 2))
    return placed[(areas > 0) & (areas < parent_SS.sum()) & (shared >= child_cover * areas)]


def _joined(masks_NSS: Tensor, known: int, weak: View, params: CorrectParams, *, rng: np.random.Generator) -> Lesson:
    """The lesson of all masks together; the first `known` suppress their duplicates."""
    cells_NP = masks_NSS[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE].flatten(1).float()
    shared_NN = (cells_NP @ cells_NP.T).cpu().numpy().astype(np.int64)
    iou_NN = masks.iou_from_intersections(shared_NN)
    kept = masks.nms_from_iou(iou_NN[known:, :][:, known:], _largest_first(shared_NN, known), nms_iou=params.nms_iou)
    fresh = np.sort(kept) + known
    visible = np.diagonal(shared_NN)[fresh] > 0
    fresh = fresh[visible & (iou_NN[fresh, :known].max(1, initial=0) <= params.nms_iou)]
    all_kept = np.concatenate([np.arange(known), fresh])
    areas = masks_NSS[torch.from_numpy(all_kept).to(masks_NSS.device)].sum((1, 2)).cpu().numpy()
    chosen = augment.sample_across_scales(areas, params.max_targets, rng=rng)
    all_kept, areas = all_kept[chosen], areas[chosen]
    ancestors = forest.ancestors_from_intersections(
        shared_NN[np.ix_(all_kept, all_kept)], theta_cover=params.theta_cover
    )
    y0, x0, y1, x1 = weak.window
    return Lesson(
        masks_NSS[torch.from_numpy(all_kept).to(masks_NSS.device)],
        forest.parents_from_ancestors(ancestors, areas),
        areas / ((y1 - y0) * (x1 - x0)),
    )


def _largest_first(shared_NN: np.ndarray, known: int) -> np.ndarray:
    return np.argsort(-np.diagonal(shared_NN)[known:], kind="stable")
