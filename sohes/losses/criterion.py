"""L = class + mask + dice + ancestor over all decoder layers (paper 3.2; Mask2Former, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from sohes.losses.ancestor_loss import ancestor_loss, ancestor_targets, pairs_among
from sohes.losses.mask_loss import dice, mask_bce
from sohes.losses.matcher import assign_all, matching_cost, resemblance
from sohes.losses.points import Comparison, compare
from sohes.params import LossParams
from sohes.structures import MaskFactors, ModelOutput, Targets


@dataclass(frozen=True)
class _Pairs:
    """One layer's M matched pairs over the batch: query and target count within their image.

    per_image: how many of them each image has.
    """

    per_image: tuple[int, ...]
    images_M: Tensor
    queries_M: Tensor
    targets_M: Tensor


@dataclass(frozen=True)
class _Matched:
    """Which queries learn which targets, over L layers, B images and Q queries.

    queries, targets: the learners of each image and what they learn, counted among the queries of all layers and the
    targets of the batch.  share_M: what each learner counts in the mask losses, so that those of a target count 1
    together.  of_layers: the pairs of the assignment, which is one query for each target.
    """

    queries: Sequence[Tensor]
    targets: Sequence[Tensor]
    share_M: Tensor
    of_layers: Sequence[_Pairs]
    entity_LBQ: Tensor
    class_weight_LBQ: Tensor


def criterion(
    output: ModelOutput,
    targets: Sequence[Targets],
    params: LossParams,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The loss of a batch: `loss` with its graph, and its detached summands `class, mask, dice, ancestor`.

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
        matched = _match_layers(layers, counts, comparison, params)
        points = comparison.pairs(matched.queries, matched.targets)
        parts: dict[str, list[Tensor]] = {
            "class": [],
            "mask": [mask_bce(*points, num_masks, matched.share_M)],
            "dice": [dice(*points, num_masks, matched.share_M)],
            "ancestor": [],
        }
        classes = matched.entity_LBQ, matched.class_weight_LBQ
        for layer, pairs, *of_layer in zip(layers, matched.of_layers, *classes, strict=True):
            parts["class"].append(class_loss(layer.class_logits_BQ2.float(), *of_layer))
            if layer.ancestor_logits_BQQ is not None:
                parts["ancestor"].append(
                    _ancestors(layer.ancestor_logits_BQQ.float(), targets, pairs, matched_only=params.matched_only)
                )
        weights = {
            "class": params.class_weight,
            "mask": params.mask_weight,
            "dice": params.dice_weight,
            "ancestor": params.ancestor_weight,
        }
        zero = torch.zeros((), device=num_masks.device)  # a network may lack the ancestor head
        summands = {name: weights[name] * sum(values, zero) for name, values in parts.items()}
        loss = sum(summands.values(), zero)
    return {"loss": loss, **{name: value.detach() for name, value in summands.items()}}


def class_loss(class_logits_BQ2: Tensor, entity_BQ: Tensor, weight_BQ: Tensor) -> Tensor:
    """Weighted two-way cross-entropy: entities have label 0, all other queries label 1."""
    entropy_BQ = F.cross_entropy(class_logits_BQ2.transpose(1, 2), (~entity_BQ).long(), reduction="none")
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
) -> _Matched:
    """Match every image in every layer; the costs travel to the CPU in one copy, so a GPU waits once a step."""
    num_queries = layers[0].class_logits_BQ2.shape[1]
    shape = len(counts), len(layers), num_queries
    class_logits = torch.cat([layer.class_logits_BQ2 for layer in layers], 1)  # all layers at once, for a GPU's sake
    weights = {
        "class_weight": params.matching_class_weight,
        "mask_weight": params.mask_weight,
        "dice_weight": params.dice_weight,
    }
    costs, likeness = [], []
    for image, targets_TP in enumerate(comparison.matching_TP.split(list(counts))):
        logits = comparison.matching_logits(image)
        costs += matching_cost(class_logits[image], logits, targets_TP, **weights).split(num_queries)
        if params.queries_per_target > 1:
            likeness += resemblance(logits, targets_TP)
    values = torch.cat([of_one.flatten() for of_one in (*costs, *likeness)]).cpu().numpy()  # here alone a GPU waits
    *blocks, likeness = np.split(values, np.cumsum([cost.numel() for cost in costs]))
    assigned = assign_all([block.reshape(cost.shape) for block, cost in zip(blocks, costs, strict=True)])
    per_image = [len(queries) for queries, _ in assigned[:: len(layers)]]  # the same in every layer
    lengths = np.repeat(per_image, len(layers))
    image, layer = (np.repeat(index, lengths) for index in divmod(np.arange(len(assigned)), len(layers)))
    query, target = (np.concatenate(column) for column in zip(*assigned, strict=True))
    before = np.cumsum([0, *counts])  # targets of earlier images
    learners = np.stack([image, layer, query, before[image] + target])
    weight = np.full(shape, params.no_object_weight, np.float32)
    if params.queries_per_target > 1:
        near = _resembling(likeness.reshape(len(counts), 2, -1), before, learners, shape, params.near_dice)
        weight[tuple(near[:3])] = 0
        also = near[:, _place_in_group(near[3] * len(layers) + near[1]) < params.queries_per_target - 1]
        learners = np.concatenate([learners, also], 1)
        learners = learners[:, np.argsort(learners[0], kind="stable")]
    entity = np.zeros(shape, bool)
    entity[tuple(learners[:3])] = True
    weight[entity] = 1
    group = learners[3] * len(layers) + learners[1]
    share = (1 / np.bincount(group)[group]).astype(np.float32)

    device = layers[0].class_logits_BQ2.device
    among_all = copied_to(device, np.stack([learners[1] * num_queries + learners[2], learners[3]]))
    of_images = [index.split(np.bincount(learners[0], minlength=len(counts)).tolist()) for index in among_all]
    within = np.stack([image, query, target])[:, np.argsort(layer, kind="stable")]
    of_layers = copied_to(device, within).reshape(3, len(layers), sum(per_image)).unbind(1)
    return _Matched(
        *of_images,
        copied_to(device, share),
        [_Pairs(tuple(per_image), *pairs) for pairs in of_layers],
        copied_to(device, entity).transpose(0, 1),
        copied_to(device, weight).transpose(0, 1),
    )


def _resembling(
    likeness: np.ndarray, before: np.ndarray, matched: np.ndarray, shape: tuple[int, int, int], near_dice: float
) -> np.ndarray:
    """(4, N) image, layer, query and target of the queries that are like a target but not matched, the nearest first.

    likeness: (B, 2, L * Q) as from `resemblance`.  before: the targets of earlier images.  matched: such columns.
    """
    dice, target = (part.reshape(shape) for part in likeness.swapaxes(0, 1))
    near = dice >= near_dice
    near[tuple(matched[:3])] = False
    image, layer, query = np.nonzero(near)
    columns = np.stack([image, layer, query, before[image] + target[near].astype(np.int64)])
    return columns[:, np.argsort(-dice[near], kind="stable")]


def _place_in_group(group: np.ndarray) -> np.ndarray:
    """How many earlier elements are of the same group."""
    order = np.argsort(group, kind="stable")
    _, first, length = np.unique(group[order], return_index=True, return_counts=True)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(first, length)
    return place


def copied_to(device: torch.device, array: np.ndarray) -> Tensor:
    """A copy for which a GPU is not waited for."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def _ancestors(ancestor_logits_BQQ: Tensor, targets: Sequence[Targets], pairs: _Pairs, *, matched_only: bool) -> Tensor:
    num_queries = ancestor_logits_BQQ.shape[1]
    queries, chosen = (index_M.split(pairs.per_image) for index_M in (pairs.queries_M, pairs.targets_M))
    relation_BQQ = torch.stack(
        [
            ancestor_targets(queries_M, targets_M, target.ancestors_TT, num_queries=num_queries)
            for queries_M, targets_M, target in zip(queries, chosen, targets, strict=True)
        ]
    )
    if not matched_only:
        return ancestor_loss(ancestor_logits_BQQ, relation_BQQ)
    places = [pairs_among(queries_M, image, num_queries=num_queries) for image, queries_M in enumerate(queries)]
    return ancestor_loss(ancestor_logits_BQQ, relation_BQQ, torch.cat(places))


def _mean_over_processes(count: int, device: torch.device) -> Tensor:
    mean = torch.full((), float(count), device=device)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(mean)
        mean /= distributed.get_world_size()
    return mean
