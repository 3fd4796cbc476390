"""Phase 2, self-instruction: the segmenter learns from the pseudo-labels (paper 3.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sohes.model.build import Network
from sohes.params import InstructParams, LossParams
from sohes.structures import Batch
from sohes.train.dataset import LabelDataset
from sohes.train.loop import Learner, Recorder, train
from sohes.train.objective import losses_of
from sohes.train.state import ResumableState
from sohes.train.world import World


class Instruction(Learner):
    """Strong views against their labels. The average of the weights (`params.ema` above 0) is what is kept."""

    def __init__(self, network: Network, params: InstructParams, loss: LossParams) -> None:
        super().__init__(network, averaged=params.ema > 0)
        self.ema, self.loss = params.ema, loss

    def momentum(self, step: int) -> float:
        """Short at first, or the average would hold the untrained weights for long."""
        return min(self.ema, (1 + step) / (10 + step))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        (losses,) = losses_of(self.network, [(batch.images_B3HW, batch.targets)], self.loss, generator)
        return losses


def instruct(
    network: Network,
    dataset: LabelDataset,
    params: InstructParams,
    loss: LossParams,
    *,
    seed: int,
    world: World,
    state: ResumableState,
    recorder: Recorder,
    validate: Callable[[Learner], dict[str, float]] | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train a new segmenter; the weights to keep, and the history of the losses."""
    learner = Instruction(network, params, loss)
    history = train(
        learner,
        dataset,
        params,
        title="instruct",
        seed=seed,
        world=world,
        state=state,
        recorder=recorder,
        validate=validate,
    )
    return learner.kept, history
