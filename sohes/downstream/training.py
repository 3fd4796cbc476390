"""Supervised training of a head and an adapter on a frozen ViT (paper 4.4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.sets.examples import VOID, ExampleBatch, ExampleDataset
from sohes.params import DownstreamParams
from sohes.train.loop import Learner, Recorder, train
from sohes.train.state import ResumableState
from sohes.train.world import World


class Probing(Learner):
    """A probe learns its task; nothing is averaged."""

    network: Any  # SemanticProbe | DetectionProbe, where the phases have a Network

    def __init__(self, network: SemanticProbe | DetectionProbe) -> None:
        super().__init__(network, averaged=False)  # type: ignore[arg-type]

    def forward(self, batch: ExampleBatch, generator: torch.Generator) -> dict[str, Tensor]:
        if isinstance(self.network, SemanticProbe):
            return self.network.losses(batch.images_B3HW, batch.classes_BHW, void=VOID)
        return self.network.losses(batch.images_B3HW, batch.boxes, batch.labels)


def train_probe(
    network: SemanticProbe | DetectionProbe,
    dataset: ExampleDataset,
    params: DownstreamParams,
    *,
    seed: int,
    world: World,
    state: ResumableState,
    recorder: Recorder,
) -> list[dict[str, float]]:
    """Teach the probe, in place; the history of the losses. Continues from `state` if it holds one."""
    return train(
        Probing(network),
        dataset,
        params,
        title="downstream",
        seed=seed,
        world=world,
        state=state,
        recorder=recorder,
    )
