"""Supervised training of an adapter and a head on a frozen ViT (paper 4.4): batches of examples, and the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.sets.examples import VOID, ClassSet, Example, flipped, in_square
from sohes.structures import Movable
from sohes.train.loading import Loaded, from_epochs, normalised
from sohes.train.loop import Learner

# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class ExampleBatch(Movable):
    """images_B3HW: normalised for the backbone. classes_BHW: int64. Boxes and labels of each image."""

    images_B3HW: Tensor
    classes_BHW: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]


class ExampleDataset(Dataset):
    """The training examples by position: `dataset[step, k]` is example k of a step's batch, mirrored half of the time.

    Each epoch is shuffled by (seed, epoch); a batch may span two. An example that cannot be read is an error.
    """

    def __init__(
        self,
        data: ClassSet,
        *,
        image_size: int,
        batch_size: int,
        normalisation: tuple[Sequence[float], Sequence[float]],
        seed: int,
    ) -> None:
        self.data, self.image_size, self.batch_size, self.seed = data, image_size, batch_size, seed
        self.mean, self.std = (tuple(float(v) for v in part) for part in normalisation)

    def __len__(self) -> int:
        return len(self.data.train)

    def __getitem__(self, position: tuple[int, int]) -> Example:
        step, k = position
        index = next(from_epochs(step * self.batch_size + k, len(self), self.seed, 0))
        shown = self.data.read(self.data.train[index])
        mirrored = np.random.default_rng((self.seed, 1, step, k)).random() < 0.5
        return in_square(flipped(shown) if mirrored else shown, self.image_size)[0]

    def collate(self, examples: Sequence[Example]) -> Loaded:
        return Loaded(
            ExampleBatch(
                normalised([e.image_HW3 for e in examples], self.mean, self.std),
                torch.from_numpy(np.stack([e.classes_HW for e in examples])).long(),
                tuple(torch.from_numpy(e.boxes_T4) for e in examples),
                tuple(torch.from_numpy(e.labels_T) for e in examples),
            )
        )


# ---------------------------------------------------------------- training


class Probing(Learner[SemanticProbe | DetectionProbe]):
    """A probe learns its task, without a moving average."""

    def forward(self, batch: ExampleBatch, generator: torch.Generator) -> dict[str, Tensor]:
        if isinstance(self.network, SemanticProbe):
            return self.network.losses(batch.images_B3HW, batch.classes_BHW, void=VOID)
        return self.network.losses(batch.images_B3HW, batch.boxes, batch.labels)
