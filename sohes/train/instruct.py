"""Phase 2, self-instruction: the segmenter learns from the pseudo-labels (paper 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from sohes.model.build import Network
from sohes.params import InstructParams, LossParams
from sohes.structures import Batch
from sohes.train.loop import Learner
from sohes.train.objective import losses_of


class Instruction(Learner[Network]):
    """Learns the labels of strong views. With `params.ema` above 0 the average of the weights is kept."""

    def __init__(self, network: Network, params: InstructParams, loss: LossParams) -> None:
        super().__init__(network, averaged=params.ema > 0, frozen=params.optim.backbone_lr_scale == 0)
        self.ema, self.loss = params.ema, loss

    def momentum(self, step: int) -> float:
        """Low at first, or the untrained weights would stay in the average for long."""
        return min(self.ema, (1 + step) / (10 + step))

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        (losses,) = losses_of(self.network, [(batch.images_B3HW, batch.targets, self.loss)], generator)
        return losses
