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
from sohes.losses.matcher import assign_all, matching_cost
from sohes.losses.points import Comparison, compare
from sohes.params import LossParams
from sohes.structures import ModelOutput, Targets


@dataclass(frozen=True)
class _Pairs:
    """One layer's M matched pairs over the batch: query and target count within their image.

    per_image: how many of them each image has.
    """

    per_image: tuple[int, ...]
    images_M: Tensor
    queries_M: Tensor
    targets_M: Tensor


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
    batch, num_queries, height, width = output.mask_logits_BQhw.shape
    if len(targets) != batch:
        raise ValueError(f"the criterion needs one Targets per image (got {len(targets)} for {batch} images)")
    with torch.autocast(output.class_logits_BQ2.device.type, enabled=False):
        layers = (*output.auxiliary, output) if params.deep_supervision else (output,)
        comparison = compare([target.masks_THW for target in targets], (height, width), params, generator)
        counts = [len(target.masks_THW) for target in targets]
        num_masks = _mean_over_processes(sum(counts), output.class_logits_BQ2.device).clamp(min=1)
        first_target_B = copied_to(num_masks.device, np.cumsum([0, *counts[:-1]]))
        parts: dict[str, list[Tensor]] = {"class": [], "mask": [], "dice": [], "ancestor": []}
        for layer, pairs in zip(layers, _match_layers(layers, counts, comparison, params), strict=True):
            # not indexing with two arrays, whose backward sorts them and is many times slower
            rows_M = pairs.images_M * num_queries + pairs.queries_M
            matched_Mhw = layer.mask_logits_BQhw.flatten(0, 1).index_select(0, rows_M).float()
            points = comparison.pairs(matched_Mhw, first_target_B[pairs.images_M] + pairs.targets_M)
            parts["mask"].append(mask_bce(*points, num_masks))
            parts["dice"].append(dice(*points, num_masks))
            parts["class"].append(
                class_loss(layer.class_logits_BQ2.float(), pairs.images_M, pairs.queries_M, params.no_object_weight)
            )
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


def class_loss(class_logits_BQ2: Tensor, images_M: Tensor, queries_M: Tensor, no_object_weight: float) -> Tensor:
    """Two-way cross-entropy: matched queries are entities (label 0), all others weigh `no_object_weight`."""
    labels_BQ = torch.ones(class_logits_BQ2.shape[:2], dtype=torch.int64, device=class_logits_BQ2.device)
    labels_BQ.index_put_((images_M, queries_M), labels_BQ.new_zeros(()))  # for a plain 0 a GPU would wait
    entropy_BQ = F.cross_entropy(class_logits_BQ2.transpose(1, 2), labels_BQ, reduction="none")
    weight_BQ = torch.where(labels_BQ == 0, 1.0, no_object_weight)
    # the floor matters if nothing is matched and no_object_weight is 0
    return (entropy_BQ * weight_BQ).sum() / weight_BQ.sum().clamp(min=1e-8)


@torch.no_grad()
def _match_layers(
    layers: Sequence[ModelOutput], counts: Sequence[int], comparison: Comparison, params: LossParams
) -> list[_Pairs]:
    """Match every image in every layer; the costs travel to the CPU in one copy, so a GPU waits once a step."""
    costs = [
        matching_cost(
            layer.class_logits_BQ2[image],
            comparison.matching_logits(layer.mask_logits_BQhw[image].float()),
            targets_TP,
            class_weight=params.class_weight,
            mask_weight=params.mask_weight,
            dice_weight=params.dice_weight,
        )
        for layer in layers
        for image, targets_TP in enumerate(comparison.matching_TP.split(list(counts)))
    ]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()  # the one time that a GPU waits
    blocks = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
    assigned = assign_all([block.reshape(cost.shape) for block, cost in zip(blocks, costs, strict=True)])
    per_image = tuple(len(queries) for queries, _ in assigned[: len(counts)])  # the same in every layer
    images = np.tile(np.repeat(np.arange(len(counts)), per_image), len(layers))
    indices = np.stack([images, *(np.concatenate(column) for column in zip(*assigned, strict=True))])
    moved_3LM = copied_to(layers[0].class_logits_BQ2.device, indices.reshape(3, len(layers), sum(per_image)))
    return [_Pairs(per_image, *moved_M) for moved_M in moved_3LM.unbind(1)]


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
