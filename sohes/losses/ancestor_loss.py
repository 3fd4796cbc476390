"""The loss of the ancestor head (paper 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ancestor_targets(queries_M: Tensor, targets_M: Tensor, ancestors_TT: Tensor, *, num_queries: int) -> Tensor:
    """(Q, Q) float32, the paper's P: the relation of the matched targets; rows and columns of the rest are zero."""
    relation_QQ = torch.zeros(num_queries, num_queries, device=ancestors_TT.device)
    relation_QQ[queries_M[:, None], queries_M[None, :]] = ancestors_TT[targets_M[:, None], targets_M[None, :]].float()
    return relation_QQ


def ancestor_loss(ancestor_logits_BQQ: Tensor, relation_BQQ: Tensor, considered_BQQ: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over all N x N pairs as in the paper, or over `considered_BQQ` (bool) only.

    Zero, with a gradient path, if no pair is considered.
    """
    if considered_BQQ is not None:
        ancestor_logits_BQQ, relation_BQQ = ancestor_logits_BQQ[considered_BQQ], relation_BQQ[considered_BQQ]
    pairs = max(ancestor_logits_BQQ.numel(), 1)  # the mean over no pairs would be NaN
    return F.binary_cross_entropy_with_logits(ancestor_logits_BQQ, relation_BQQ, reduction="sum") / pairs
