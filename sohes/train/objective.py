"""L_seg of phases 2 and 3: what a network's head is taught by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sohes.losses.criterion import criterion
from sohes.model.build import Network
from sohes.model.cascade import CascadeSegmenter
from sohes.params import LossParams
from sohes.structures import ModelOutput, Targets

Branch = tuple[Tensor, Sequence[Targets]]  # images_B3HW and what they should yield


def losses_of(
    network: Network, branches: Sequence[Branch], loss: LossParams, generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """`loss` of each branch and its detached summands. `loss` weighs the Mask2Former head's; a cascade's count alike.

    The Mask2Former head takes all branches in one pass.
    """
    if isinstance(network, CascadeSegmenter):
        return [network.losses(images, targets) for images, targets in branches]
    output = network(torch.cat([images for images, _ in branches]) if len(branches) > 1 else branches[0][0])
    results, start = [], 0
    for images, targets in branches:
        stop = start + len(images)
        results.append(criterion(part_of(output, slice(start, stop)), targets, loss, generator=generator))
        start = stop
    return results


def part_of(output: ModelOutput, images: slice) -> ModelOutput:
    """Some images of a batch's output."""
    ancestors = output.ancestor_logits_BQQ
    return ModelOutput(
        output.class_logits_BQ2[images],
        output.mask_logits_BQhw[images],
        None if ancestors is None else ancestors[images],
        tuple(part_of(layer, images) for layer in output.auxiliary),
    )
