"""What the teacher of phase 3 finds in one weak view: its confident masks and their forest (paper 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import masks
from sohes.backbone.precision import full_precision
from sohes.masks import forest
from sohes.params import CorrectParams
from sohes.train import augment
from sohes.train.augment import View
from sohes.train.threshold import theta_score

_UPSAMPLED_AT_ONCE = 32  # masks; 1024 x 1024 floats of all would take gigabytes


@dataclass(frozen=True)
class Lesson:
    """A teacher's masks of one image in the weak view.

    masks_KSS: bool, on the teacher's device.  parents_K: their forest.  area_fractions_K: of the image.
    """

    masks_KSS: Tensor
    parents_K: np.ndarray
    area_fractions_K: np.ndarray


@torch.no_grad()
def teach(
    class_logits_Q2: Tensor, mask_logits_Qhw: Tensor, weak: View, params: CorrectParams, *, rng: np.random.Generator
) -> Lesson:
    """The teacher's confident masks of one weak view: dynamic threshold, NMS, forest by coverage (paper 3.3).

    Scores (class probability x mean mask probability inside the mask), areas, overlaps and the hierarchy are computed
    on the mask map; only the masks that are kept, at most `max_targets`, are enlarged to the square's size.
    """
    size, (h, w) = weak.canvas_hw[0], mask_logits_Qhw.shape[1:]
    bottom, right = weak.window[2:]
    rows, columns = max(1, round(bottom * h / size)), max(1, round(right * w / size))
    logits_QP = mask_logits_Qhw[:, :rows, :columns].flatten(1).float()
    inside_QP = (logits_QP > 0).float()
    scores_Q, cells_Q = scores_and_cells(class_logits_Q2, logits_QP, inside_QP)
    scores, fractions = torch.stack([scores_Q, cells_Q / (rows * columns)]).double().cpu().numpy()
    sure = np.flatnonzero(is_sure(scores, fractions, params))
    inside_KP = inside_QP[torch.from_numpy(sure).to(inside_QP.device, non_blocking=True)]
    shared_KK = shared_cells(inside_KP)
    by_score = np.argsort(-scores[sure], kind="stable")
    kept = np.sort(masks.nms_from_iou(masks.iou_from_intersections(shared_KK), by_score, nms_iou=params.nms_iou))
    kept = kept[augment.sample_across_scales(np.diagonal(shared_KK)[kept], params.max_targets, rng=rng)]
    shared_KK = shared_KK[np.ix_(kept, kept)]
    ancestors_KK = forest.ancestors_from_intersections(shared_KK, theta_cover=params.theta_cover)
    chosen = torch.from_numpy(sure[kept]).to(mask_logits_Qhw.device, non_blocking=True)
    masks_KSS = _grow(mask_logits_Qhw[chosen], size)
    masks_KSS[:, bottom:] = False
    masks_KSS[:, :, right:] = False
    parents_K = forest.parents_from_ancestors(ancestors_KK, np.diagonal(shared_KK))
    return Lesson(masks_KSS, parents_K, fractions[sure[kept]])


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


def shared_cells(inside_KP: Tensor) -> np.ndarray:
    """(K, K) int64: the cells that each pair of masks shares, from float32 zeros and ones."""
    with full_precision(inside_KP.device):  # counts are exact in float32 below 2^24, in bfloat16 below 2^8
        return (inside_KP @ inside_KP.T).cpu().numpy().astype(np.int64)


def _grow(logits_Khw: Tensor, size: int) -> Tensor:
    """(K, S, S) bool masks from logits of a mask map."""
    grown = torch.zeros((len(logits_Khw), size, size), dtype=torch.bool, device=logits_Khw.device)
    for start in range(0, len(logits_Khw), _UPSAMPLED_AT_ONCE):
        some = logits_Khw[start : start + _UPSAMPLED_AT_ONCE, None].float()
        full = F.interpolate(some, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        grown[start : start + _UPSAMPLED_AT_ONCE] = full > 0
    return grown
