"""L_seg, the loss of phases 2 and 3, for either head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sohes.losses.criterion import criterion
from sohes.model.build import Network
from sohes.model.cascade import CascadeSegmenter
from sohes.params import LossParams
from sohes.structures import ModelOutput, Targets

Branch = tuple[Tensor, Sequence[Targets], LossParams]  # images_B3HW, their targets, and what weighs how much


def losses_of(
    network: Network, branches: Sequence[Branch], generator: torch.Generator, teacher: ModelOutput | None = None
) -> list[dict[str, Tensor]]:
    """`loss` of each branch and its detached summands; the Mask2Former head takes all branches in one pass.

    A cascade's summands all weigh the same. teacher: as in `criterion`, of the images of all branches in their order.
    """
    if isinstance(network, CascadeSegmenter):
        return [network.losses(images, targets) for images, targets, _ in branches]
    output = network(torch.cat([images for images, *_ in branches]) if len(branches) > 1 else branches[0][0])
    results, start = [], 0
    for images, targets, loss in branches:
        stop = start + len(images)
        held_to = None if teacher is None else part_of(teacher, slice(start, stop))
        results.append(criterion(part_of(output, slice(start, stop)), targets, loss, generator, held_to))
        start = stop
    return results


def part_of(output: ModelOutput, images: slice) -> ModelOutput:
    """The output of some images of a batch."""
    ancestors = output.ancestor_logits_BQQ
    return ModelOutput(
        output.class_logits_BQ2[images],
        output.masks[images],
        None if ancestors is None else ancestors[images],
        tuple(part_of(layer, images) for layer in output.auxiliary),
    )
