"""L = class + mask + dice + ancestor over all decoder layers (paper 3.2; Mask2Former, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from sohes.losses.ancestor_loss import ancestor_loss, ancestor_targets, pairs_among
from sohes.losses.hold import hold_loss
from sohes.losses.mask_loss import dice, mask_bce
from sohes.losses.matcher import assign_all, matching_cost, resemblance
from sohes.losses.points import Comparison, compare
from sohes.params import LossParams
from sohes.structures import MaskFactors, ModelOutput, Targets
from sohes.work.transfer import to_device

ENTITY, NOTHING, UNTOLD = 0, 1, -100  # what the class head is told of a query

Pairs = Sequence[tuple[Tensor, Tensor]]  # of each image, queries and the targets that they learn


@dataclass(frozen=True)
class _Learners:
    """The M queries of L layers and B images that learn a target.

    queries, targets: by image, counted among the queries of all layers and the targets of the batch.
    size_M: how many queries of its layer learn the same target.  of_layers: the pairs again, counted within the image.
    labels_LBQ: ENTITY for those who learn, UNTOLD for others that resemble a target, NOTHING for the rest.
    """

    queries: Sequence[Tensor]
    targets: Sequence[Tensor]
    size_M: Tensor
    of_layers: Sequence[Pairs]
    labels_LBQ: Tensor


def criterion(
    output: ModelOutput,
    targets: Sequence[Targets],
    params: LossParams,
    generator: torch.Generator | None = None,
    teacher: ModelOutput | None = None,
) -> dict[str, Tensor]:
    """The loss of a batch: `loss` with its graph, and its detached summands `class, mask, dice, ancestor`.

    teacher: its output on the same images (ours, phase 3). Then the last layer's queries that learn no target and
    resemble none are held to it: a summand `hold` (`hold_loss`), and in place of NOTHING their class is told what the
    teacher's is.

    The summands are weighted and summed over the decoder layers, each matched on its own: they add up to `loss`.
    Computed in float32 also under autocast. A batch without a target yields finite losses that reach every head, so
    that DDP finds no unused parameter. ValueError if there is not one `Targets` per image.
    """
    batch = len(output.class_logits_BQ2)
    if len(targets) != batch:
        raise ValueError(f"the criterion needs one Targets per image (got {len(targets)} for {batch} images)")
    with torch.autocast(output.class_logits_BQ2.device.type, enabled=False):
        layers = (*output.auxiliary, output) if params.deep_supervision else (output,)
        comparison = compare(_of_all(layers), [target.masks_THW for target in targets], params, generator)
        counts = [len(target.masks_THW) for target in targets]
        num_masks = _mean_over_processes(sum(counts), output.class_logits_BQ2.device).clamp(min=1)
        learners = _match_layers(layers, counts, comparison, params)
        points = comparison.pairs(learners.queries, learners.targets)
        share_M = 1 / learners.size_M
        parts: dict[str, list[Tensor]] = {
            "class": [],
            "mask": [mask_bce(*points, num_masks, share_M)],
            "dice": [dice(*points, num_masks, share_M)],
            "ancestor": [],
        }
        for layer, labels_BQ, pairs in zip(layers, learners.labels_LBQ, learners.of_layers, strict=True):
            held_to = teacher if layer is output else None
            said_BQ2 = None if held_to is None else held_to.class_logits_BQ2.float().softmax(-1)
            parts["class"].append(
                class_loss(layer.class_logits_BQ2.float(), labels_BQ, params.no_object_weight, said_BQ2)
            )
            if held_to is not None:
                parts["hold"] = [hold_loss(output, held_to, labels_BQ == NOTHING) / num_masks]
            if layer.ancestor_logits_BQQ is not None:
                parts["ancestor"].append(
                    _ancestors(layer.ancestor_logits_BQQ.float(), targets, pairs, matched_only=params.matched_only)
                )
        weights = {
            "class": params.class_weight,
            "mask": params.mask_weight,
            "dice": params.dice_weight,
            "ancestor": params.ancestor_weight,
            "hold": params.mask_weight,
        }
        zero = torch.zeros((), device=num_masks.device)  # a network may lack the ancestor head
        summands = {name: weights[name] * sum(values, zero) for name, values in parts.items()}
        loss = sum(summands.values(), zero)
    return {"loss": loss, **{name: value.detach() for name, value in summands.items()}}


def class_loss(
    class_logits_BQ2: Tensor, labels_BQ: Tensor, no_object_weight: float, said_BQ2: Tensor | None = None
) -> Tensor:
    """Two-way cross-entropy of queries that are an ENTITY or NOTHING; the latter weigh `no_object_weight`.

    said_BQ2: probabilities that queries are told in place of NOTHING.
    """
    logits_B2Q = class_logits_BQ2.transpose(1, 2)
    entropy_BQ = F.cross_entropy(logits_B2Q, labels_BQ, ignore_index=UNTOLD, reduction="none")
    if said_BQ2 is not None:
        soft_BQ = F.cross_entropy(logits_B2Q, said_BQ2.transpose(1, 2), reduction="none")
        entropy_BQ = torch.where(labels_BQ == NOTHING, soft_BQ, entropy_BQ)
    weight_BQ = torch.where(labels_BQ == ENTITY, 1.0, no_object_weight) * (labels_BQ != UNTOLD)
    # the floor matters if nothing is matched and no_object_weight is 0
    return (entropy_BQ * weight_BQ).sum() / weight_BQ.sum().clamp(min=1e-8)


def _of_all(layers: Sequence[ModelOutput]) -> MaskFactors:
    """The masks of all layers as if they were one layer's: queries of the first, then of the second, and so on."""
    masks = [layer.masks for layer in layers]
    factors = [of_layer for of_layer in masks if isinstance(of_layer, MaskFactors)]
    if len(factors) == len(masks):  # a network makes them of the same features
        embedding, features, *windows = zip(*(of_layer.parts() for of_layer in factors), strict=True)
        return MaskFactors(torch.cat(embedding, 1), features[0], *(torch.cat(parts, 1) for parts in windows))
    logits_BQhw = torch.cat([layer.mask_logits_BQhw for layer in layers], 1)
    batch, num_queries = logits_BQhw.shape[:2]
    return MaskFactors(torch.eye(num_queries, device=logits_BQhw.device).expand(batch, -1, -1), logits_BQhw)


@torch.no_grad()
def _match_layers(
    layers: Sequence[ModelOutput], counts: Sequence[int], comparison: Comparison, params: LossParams
) -> _Learners:
    """Match every image in every layer, and find who else resembles a target.

    What the CPU must know travels to it in one copy, so a GPU waits once a step.
    """
    num_queries = layers[0].class_logits_BQ2.shape[1]
    shape = len(counts), len(layers), num_queries
    class_logits = torch.cat([layer.class_logits_BQ2 for layer in layers], 1)  # all layers at once, for a GPU's sake
    weights = {
        "class_weight": params.matching_class_weight,
        "mask_weight": params.mask_weight,
        "dice_weight": params.dice_weight,
    }
    costs, alike = [], []
    for image, targets_TP in enumerate(comparison.matching_TP.split(list(counts))):
        logits = comparison.matching_logits(image)
        costs += matching_cost(class_logits[image], logits, targets_TP, **weights).split(num_queries)
        if params.queries_per_target > 1:
            alike.append(resemblance(logits, targets_TP))
    flat = torch.cat([values.flatten() for values in (*costs, *alike)]).cpu().numpy()  # the one time that a GPU waits
    *blocks, alike_B2LQ = np.split(flat, np.cumsum([cost.numel() for cost in costs]))
    assigned = assign_all([block.reshape(cost.shape) for block, cost in zip(blocks, costs, strict=True)])
    block = np.repeat(np.arange(len(assigned)), [len(queries) for queries, _ in assigned])
    learners_4M = np.stack([*divmod(block, len(layers)), *(np.concatenate(c) for c in zip(*assigned, strict=True))])
    labels_BLQ = np.full(shape, NOTHING)
    if params.queries_per_target > 1:
        dice_BLQ, target_BLQ = alike_B2LQ.reshape(len(counts), 2, *shape[1:]).swapaxes(0, 1)
        near_BLQ = dice_BLQ >= params.near_dice
        near_BLQ[tuple(learners_4M[:3])] = False  # matched already
        labels_BLQ[near_BLQ] = UNTOLD
        near_4N = np.stack([*np.nonzero(near_BLQ), target_BLQ[near_BLQ].astype(np.int64)])
        near_4N = near_4N[:, _first_of_each(near_4N[[0, 1, 3]], dice_BLQ[near_BLQ], params.queries_per_target - 1)]
        learners_4M = np.concatenate([learners_4M, near_4N], 1)
    labels_BLQ[tuple(learners_4M[:3])] = ENTITY
    return _moved(learners_4M, labels_BLQ, counts, class_logits.device)


def _first_of_each(groups_KN: np.ndarray, dice_N: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` with the highest Dice in each group, which is a column of `groups_KN`."""
    order = np.lexsort((-dice_N, *groups_KN))
    changes = (np.diff(groups_KN[:, order], axis=1, prepend=-1) != 0).any(0)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.arange(len(order)) * changes)
    return order[rank < count]


def _moved(learners_4M: np.ndarray, labels_BLQ: np.ndarray, counts: Sequence[int], device: torch.device) -> _Learners:
    """learners_4M: image, layer, query, and target within the image. Everything moves in one copy."""
    batch, num_layers, num_queries = labels_BLQ.shape
    image, layer, query, target = learners_4M[:, np.lexsort(learners_4M[[1, 0]])]
    among_all = layer * num_queries + query, np.cumsum([0, *counts])[image] + target
    _, group, size = np.unique(among_all[1] * num_layers + layer, return_inverse=True, return_counts=True)
    within = learners_4M[:, np.lexsort(learners_4M[:2])][2:]
    rows = np.stack([*among_all, size[group], *within])
    moved = to_device(device, np.concatenate([rows.ravel(), labels_BLQ.swapaxes(0, 1).ravel()]))
    queries, targets, size_M, *within_M = moved[: rows.size].view(rows.shape)
    per_image = np.bincount(image, minlength=batch).tolist()
    per_block = np.bincount(layer * batch + image, minlength=num_layers * batch).tolist()
    blocks = list(zip(*(index_M.split(per_block) for index_M in within_M), strict=True))
    return _Learners(
        queries.split(per_image),
        targets.split(per_image),
        size_M,
        [blocks[first : first + batch] for first in range(0, len(blocks), batch)],
        moved[rows.size :].view(num_layers, batch, num_queries),
    )


def _ancestors(ancestor_logits_BQQ: Tensor, targets: Sequence[Targets], pairs: Pairs, *, matched_only: bool) -> Tensor:
    num_queries = ancestor_logits_BQQ.shape[1]
    relation_BQQ = torch.stack(
        [
            ancestor_targets(*of_image, target.ancestors_TT, num_queries=num_queries)
            for of_image, target in zip(pairs, targets, strict=True)
        ]
    )
    if not matched_only:
        return ancestor_loss(ancestor_logits_BQQ, relation_BQQ)
    places = [pairs_among(queries_M, image, num_queries=num_queries) for image, (queries_M, _) in enumerate(pairs)]
    return ancestor_loss(ancestor_logits_BQQ, relation_BQQ, torch.cat(places))


def _mean_over_processes(count: int, device: torch.device) -> Tensor:
    mean = torch.full((), float(count), device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean
