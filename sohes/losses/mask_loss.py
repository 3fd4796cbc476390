"""Binary cross-entropy and dice of matched masks (Mask2Former, section 3.3).

weight_M: what each mask counts in the sum.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def mask_bce(logits_MP: Tensor, targets_MP: Tensor, num_masks: Tensor | float, weight_M: Tensor | float = 1) -> Tensor:
    """Binary cross-entropy, the mean over points, summed over masks and divided by `num_masks`; zero for M = 0."""
    bce_M = F.binary_cross_entropy_with_logits(logits_MP, targets_MP, reduction="none").mean(1)
    return (bce_M * weight_M).sum() / num_masks


def dice(logits_MP: Tensor, targets_MP: Tensor, num_masks: Tensor | float, weight_M: Tensor | float = 1) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1), summed over masks and divided by `num_masks`; zero for M = 0."""
    probability = logits_MP.sigmoid()
    overlap = (probability * targets_MP).sum(1)
    total = probability.sum(1) + targets_MP.sum(1)
    return ((1 - (2 * overlap + 1) / (total + 1)) * weight_M).sum() / num_masks
