"""Which query predicts which target: the Hungarian assignment on points (Mask2Former, section 3.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sohes.work.pool import default_workers


@torch.no_grad()
def matching_cost(
    class_logits_Q2: Tensor,
    mask_points_QP: Tensor,
    target_points_TP: Tensor,
    *,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> Tensor:
    """(Q, T) float32: minus the entity probability, mask BCE and dice of every pair, weighted.

    mask_points_QP: mask logits at P points.  target_points_TP: the targets at the same points, in [0, 1].
    BCE(x, t) = softplus(x) - x t and the overlap in dice is sigmoid(x) t, so both come from matrix products and no
    Q x T x P array is made. The few rows of the targets go first, which halves the time of the CPU's kernel.
    """
    logits, target = mask_points_QP.float(), target_points_TP.float()
    points = max(logits.shape[1], 1)
    probability = logits.sigmoid()
    entity_Q1 = class_logits_Q2.float().softmax(-1)[:, :1]
    bce_QT = (_softplus_sum(logits, probability)[:, None] - (target @ logits.T).T) / points
    overlap_QT = (target @ probability.T).T
    total_QT = probability.sum(1)[:, None] + target.sum(1)[None, :]
    dice_QT = 1 - (2 * overlap_QT + 1) / (total_QT + 1)
    return mask_weight * bce_QT + dice_weight * dice_QT - class_weight * entity_Q1


@torch.no_grad()
def resemblance(mask_points_QP: Tensor, target_points_TP: Tensor) -> Tensor:
    """(2, Q) float32: the Dice of each mask with the target that it resembles most, and the number of that target.

    mask_points_QP, target_points_TP: as in `matching_cost`.
    Dice is 2 p t / (p p + t t), which is 1 for p = t also where a target covers a part of a cell; with |p| + |t| a
    small mask, most of whose cells lie at its edge, would never come near 1. Without a target it is 0.
    """
    if not len(target_points_TP):
        return torch.zeros(2, len(mask_points_QP), device=mask_points_QP.device)
    probability, target = mask_points_QP.float().sigmoid(), target_points_TP.float()
    total_QT = probability.square().sum(1)[:, None] + target.square().sum(1)[None, :]
    dice_QT = 2 * (target @ probability.T).T / total_QT.clamp(min=1e-8)
    return torch.stack([part.float() for part in dice_QT.max(1)])


def _softplus_sum(logits_QP: Tensor, probability_QP: Tensor) -> Tensor:
    """(Q,) sum of softplus(x) = max(x, 0) - log max(p, 1 - p), given p = sigmoid(x).

    The logarithm's argument lies in [0.5, 1], where no precision is lost; torch's softplus takes three times as long.
    """
    likelier = (probability_QP - 0.5).abs_().add_(0.5)
    return logits_QP.clamp(min=0).sub_(likelier.log_()).sum(1)


def assign_all(costs: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`assign` for each matrix, on all cores: SciPy's solver works beside Python."""
    return list(_threads().map(assign, costs))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(default_workers())


def assign(cost_QT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum-cost pairs of a (Q, T) matrix: (query indices, target indices), min(Q, T) of each, queries rising.

    A cost that is not finite becomes the worst possible one: the solver would raise on NaN, and it is for the loss to
    show that training diverged.
    """
    if not np.isfinite(cost_QT).all():
        worst = float(np.finfo(np.float32).max)
        cost_QT = np.nan_to_num(cost_QT, nan=worst, posinf=worst, neginf=worst)
    queries, targets = linear_sum_assignment(cost_QT)
    return queries.astype(np.int64), targets.astype(np.int64)
