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
    """What is matched: by image, counted among the queries of all layers and the targets of the batch; and by layer."""

    queries: Sequence[Tensor]
    targets: Sequence[Tensor]
    of_layers: Sequence[_Pairs]


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
            "mask": [mask_bce(*points, num_masks)],
            "dice": [dice(*points, num_masks)],
            "ancestor": [],
        }
        for layer, pairs in zip(layers, matched.of_layers, strict=True):
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
    class_logits = torch.cat([layer.class_logits_BQ2 for layer in layers], 1)  # all layers at once, for a GPU's sake
    weights = {
        "class_weight": params.matching_class_weight,
        "mask_weight": params.mask_weight,
        "dice_weight": params.dice_weight,
    }
    costs = [
        of_layer
        for image, targets_TP in enumerate(comparison.matching_TP.split(list(counts)))
        for of_layer in matching_cost(
            class_logits[image], comparison.matching_logits(image), targets_TP, **weights
        ).split(num_queries)
    ]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()  # the one time that a GPU waits
    blocks = np.split(flat, np.cumsum([cost.numel() for cost in costs])[:-1])
    assigned = assign_all([block.reshape(cost.shape) for block, cost in zip(blocks, costs, strict=True)])
    per_image = [len(queries) for queries, _ in assigned[:: len(layers)]]  # the same in every layer
    lengths = np.repeat(per_image, len(layers))
    image, layer = (np.repeat(index, lengths) for index in divmod(np.arange(len(assigned)), len(layers)))
    query, target = (np.concatenate(column) for column in zip(*assigned, strict=True))
    among_all = np.stack([layer * num_queries + query, np.cumsum([0, *counts])[image] + target])
    within = np.stack([image, query, target])[:, np.argsort(layer, kind="stable")]
    moved = copied_to(layers[0].class_logits_BQ2.device, np.concatenate([among_all, within]))
    of_images = [index.split([len(layers) * count for count in per_image]) for index in moved[:2]]
    of_layers = moved[2:].reshape(3, len(layers), sum(per_image)).unbind(1)
    return _Matched(of_images[0], of_images[1], [_Pairs(tuple(per_image), *pairs) for pairs in of_layers])


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
