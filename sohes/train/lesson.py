"""What the teacher of phase 3 finds in weak views: its confident masks (paper 3.3) and their forest.

Of them, those that reach into what the student sees. That is a half-open box in pixels of the weak view, `shown`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import masks
from sohes.backbone.precision import full_precision
from sohes.masks import forest
from sohes.masks.windows import Box
from sohes.model.decode import cells_shown
from sohes.params import CorrectParams
from sohes.train import augment
from sohes.train.augment import View
from sohes.train.threshold import theta_score
from sohes.work.transfer import to_device, to_host

_AT_ONCE = 32  # masks; 1024 x 1024 floats of all would take gigabytes, and integers twice as many
_PIXELS_AT_ONCE = 2**16  # of each mask; as floats they take what a bool mask of 512 x 512 does


@dataclass(frozen=True)
class Lesson:
    """What the student is to learn of one image: masks in the weak view, the better of two before the other.

    masks_KSS: bool, on the teacher's device, none empty.  parents_K: their forest.  area_fractions_K: of the image.
    """

    masks_KSS: Tensor
    parents_K: np.ndarray
    area_fractions_K: np.ndarray


@torch.no_grad()
def teach(
    class_logits_BQ2: Tensor,
    mask_logits_BQhw: Tensor,
    weak: Sequence[View],
    shown: Sequence[Box],
    params: CorrectParams,
    *,
    rngs: Sequence[np.random.Generator],
) -> list[Lesson]:
    """The teacher's confident masks of each weak view: dynamic threshold (paper 3.3), NMS, forest by coverage.

    Ours: the NMS, the score and the forest. The paper says nothing of duplicates, nor where the ancestors of the
    teacher's masks come from; coverage is how step 4 of phase 1 finds them.
    Scores (class probability x mean mask probability inside the mask), areas, overlaps and the hierarchy are computed
    on the mask map; only the confident masks are enlarged to the square's size, where a single cell may leave nothing.
    Kept are at most `max_targets` of those that reach into `shown`, by their cells. A GPU waits twice, however many
    views there are.
    """
    looks = [_look(*one) for one in zip(class_logits_BQ2, mask_logits_BQhw, weak, shown, strict=True)]
    figures_B3Q = torch.stack([figures_3Q for figures_3Q, _ in looks]).cpu().numpy()
    sure = [np.flatnonzero(is_sure(scores, fractions, params)) for scores, fractions, _ in figures_B3Q]
    device = mask_logits_BQhw.device
    chosen = [to_device(device, sure_K) for sure_K in sure]
    grown = [_grow(logits[of_one], view) for logits, of_one, view in zip(mask_logits_BQhw, chosen, weak, strict=True)]
    counted = shared_cells([inside_QP[of_one] for (_, inside_QP), of_one in zip(looks, chosen, strict=True)])
    on_host = to_host([*counted, *(areas_of(masks_KSS) for masks_KSS in grown)], np.int64)
    shared, areas = on_host[: len(weak)], on_host[len(weak) :]
    lessons = []
    for masks_KSS, (scores, fractions, seen), sure_K, shared_KK, areas_K, rng in zip(
        grown, figures_B3Q, sure, shared, areas, rngs, strict=True
    ):
        by_score = np.argsort(-scores[sure_K], kind="stable")
        by_score = by_score[areas_K[by_score] > 0]
        kept = masks.nms_from_iou(masks.iou_from_intersections(shared_KK), by_score, nms_iou=params.nms_iou)
        kept = kept[seen[sure_K[kept]] > 0]
        kept = kept[augment.sample_across_scales(np.diagonal(shared_KK)[kept], params.max_targets, rng=rng)]
        parents_K = forest.parents_by_coverage(shared_KK[np.ix_(kept, kept)], theta_cover=params.theta_cover)
        lessons.append(Lesson(masks_KSS[to_device(device, kept)], parents_K, fractions[sure_K[kept]]))
    return lessons


def _look(class_logits_Q2: Tensor, mask_logits_Qhw: Tensor, weak: View, shown: Box) -> tuple[Tensor, Tensor]:
    """(3, Q) float64 scores, fractions of the view and cells in `shown`; (Q, P) float32, 1 inside the mask."""
    h, w = mask_logits_Qhw.shape[1:]
    bottom, right = weak.window[2:]
    rows, columns = (
        cells_shown(end, map_side=n, square_side=weak.canvas_hw[0]) for end, n in ((bottom, h), (right, w))
    )
    logits_QP = mask_logits_Qhw[:, :rows, :columns].flatten(1).float()
    inside_QP = (logits_QP > 0).float()
    scores_Q, cells_Q = scores_and_cells(class_logits_Q2, logits_QP, inside_QP)
    y0, x0, y1, x1 = np.multiply(shown, np.tile((h, w), 2) / weak.canvas_hw[0])
    seen_Q = inside_QP.view(-1, rows, columns)[:, int(y0) : math.ceil(y1), int(x0) : math.ceil(x1)].sum((1, 2))
    return torch.stack([scores_Q, cells_Q / (rows * columns), seen_Q]).double(), inside_QP


def scores_and_cells(class_logits_Q2: Tensor, logits_QP: Tensor, inside_QP: Tensor) -> tuple[Tensor, Tensor]:
    """(Q,) scores, class probability x mean mask probability inside the mask, and (Q,) cells; of any number of views.

    inside_QP: float32, 1 inside the mask.
    """
    cells_Q = inside_QP.sum(-1)
    certainty_Q = (logits_QP.sigmoid() * inside_QP).sum(-1) / cells_Q.clamp(min=1)
    return class_logits_Q2.float().softmax(-1)[..., 0] * certainty_Q, cells_Q


def is_sure(scores: np.ndarray, fractions: np.ndarray, params: CorrectParams) -> np.ndarray:
    """Bool: whether a mask's score exceeds what the dynamic threshold wants for its fraction of what was seen."""
    wanted = theta_score(
        fractions,
        theta_score_small=params.theta_score_small,
        theta_score_large=params.theta_score_large,
        gamma=params.gamma,
    )
    return (scores > wanted) & (fractions > 0)


def shared_cells(inside: Sequence[Tensor]) -> list[Tensor]:
    """(K, K) int64 of each (K, P): the cells that each pair of masks shares, from float32 zeros and ones."""
    with full_precision(inside[0].device):  # counts are exact in float32 below 2^24, in bfloat16 below 2^8
        return [(inside_KP @ inside_KP.T).long() for inside_KP in inside]


def shared_pixels(masks_KSS: Tensor) -> Tensor:
    """(K, K) int64, on their device: the pixels that each pair of bool masks shares; all, lest thin ones vanish."""
    if masks_KSS.device.type == "cpu":
        return torch.from_numpy(masks.intersections(masks_KSS.numpy()))
    return _shared_in_parts(masks_KSS)


def _shared_in_parts(masks_KSS: Tensor) -> Tensor:
    shared_KK = torch.zeros((len(masks_KSS),) * 2, device=masks_KSS.device)
    with full_precision(masks_KSS.device):
        for pixels_KP in masks_KSS.flatten(1).split(_PIXELS_AT_ONCE, 1):
            inside_KP = pixels_KP.float()
            shared_KK += inside_KP @ inside_KP.T
    return shared_KK.long()


def areas_of(masks_KSS: Tensor) -> Tensor:
    """(K,) int64 pixels of bool masks, on their device; `sum` would first convert all of them to integers."""
    if masks_KSS.device.type == "cpu":
        return torch.from_numpy(masks.pixel_counts(masks_KSS.numpy()))
    return torch.cat([some.sum((1, 2)) for some in masks_KSS.split(_AT_ONCE)])


def _grow(logits_Khw: Tensor, weak: View) -> Tensor:
    """(K, S, S) bool masks in the weak view from logits of its mask map."""
    size = weak.canvas_hw[0]
    grown = torch.zeros((len(logits_Khw), size, size), dtype=torch.bool, device=logits_Khw.device)
    for start in range(0, len(logits_Khw), _AT_ONCE):
        some = logits_Khw[start : start + _AT_ONCE, None].float()
        full = F.interpolate(some, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        grown[start : start + _AT_ONCE] = full > 0
    bottom, right = weak.window[2:]
    grown[:, bottom:] = False
    grown[:, :, right:] = False
    return grown
