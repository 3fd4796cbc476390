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


def pairs_among(queries_M: Tensor, image: int, *, num_queries: int) -> Tensor:
    """(M x M,) places of the pairs of these queries of an image in a flat (B, Q, Q)."""
    return ((image * num_queries + queries_M[:, None]) * num_queries + queries_M[None, :]).flatten()


def ancestor_loss(ancestor_logits_BQQ: Tensor, relation_BQQ: Tensor, considered_K: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over all N x N pairs as in the paper, or over the places `considered_K` only.

    Zero, with a gradient path, if no pair is considered.
    """
    logits, relation = ancestor_logits_BQQ.flatten(), relation_BQQ.flatten()
    if considered_K is not None:  # places, since a GPU would wait for the number of pairs behind a mask
        logits, relation = logits.index_select(0, considered_K), relation.index_select(0, considered_K)
    pairs = max(logits.numel(), 1)  # the mean over no pairs would be NaN
    return F.binary_cross_entropy_with_logits(logits, relation, reduction="sum") / pairs
