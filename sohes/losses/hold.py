"""Queries that learn nothing are held to what the teacher's draw (ours; docs/log.md)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sohes.structures import MaskFactors, ModelOutput


def hold_loss(output: ModelOutput, teacher: ModelOutput, free_BQ: Tensor) -> Tensor:
    """How far the masks of free queries are from those of the teacher's same queries, a float32 sum over all of them.

    Cross-entropy plus 1 - 2pt / (pp + tt), of probabilities on mask maps of half the size, weighted by how sure the
    teacher is that its query has an entity. Without it, new targets take the queries whose masks no label had taught.
    free_BQ: bool, the queries that learn no mask.
    """
    weight_BQ = teacher.class_logits_BQ2.float().softmax(-1)[..., 0] * free_BQ
    logits_BQP, wanted_BQP = _halved(output.masks).flatten(2), _halved(teacher.masks).flatten(2).sigmoid()
    drawn_BQP = logits_BQP.sigmoid()
    entropy_BQ = F.binary_cross_entropy_with_logits(logits_BQP, wanted_BQP, reduction="none").mean(2)
    both_BQ = (drawn_BQP.square() + wanted_BQP.square()).sum(2).clamp(min=1e-6)
    dice_BQ = 1 - 2 * (drawn_BQP * wanted_BQP).sum(2) / both_BQ
    return (weight_BQ * (entropy_BQ + dice_BQ)).sum()


def _halved(masks: Tensor | MaskFactors) -> Tensor:
    """(B, Q, h // 2, w // 2) float32 logits, each the mean of 2 x 2."""
    if isinstance(masks, Tensor):
        return F.avg_pool2d(masks.float(), 2)
    embedding, features, *windows = (part.float() for part in masks.parts())
    return MaskFactors(embedding, F.avg_pool2d(features, 2), *(F.avg_pool1d(part, 2) for part in windows)).logits_BQhw()
