"""One photograph with classes, a set of them in two splits, and the set's training half as batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sohes.data.imaging import letterbox
from sohes.train.dataset import normalised

VOID = -1  # a pixel of no class: neither learned nor counted
Key = Any  # whatever a set's `read` finds an example by; it travels to worker processes


@dataclass(frozen=True)
class Example:
    """image_HW3: uint8 RGB. classes_HW: int16, VOID or a class. boxes_T4: float32 (x0, y0, x1, y1). labels_T: int64."""

    image_HW3: np.ndarray
    classes_HW: np.ndarray
    boxes_T4: np.ndarray
    labels_T: np.ndarray


@dataclass(frozen=True)
class ClassSet:
    """A data set of `len(classes)` classes. What a task does not need may be empty: no boxes, or VOID everywhere."""

    classes: tuple[str, ...]
    train: Sequence[Key]
    val: Sequence[Key]
    read: Callable[[Key], Example]


def example(
    image_HW3: np.ndarray, *, classes_HW: np.ndarray | None = None, boxes_T4: object = (), labels_T: object = ()
) -> Example:
    """An example, of which what a task does not need may be left out."""
    classes = np.full(image_HW3.shape[:2], VOID, np.int16) if classes_HW is None else classes_HW.astype(np.int16)
    boxes = np.asarray(boxes_T4, np.float32).reshape(-1, 4)
    return Example(image_HW3, classes, boxes, np.asarray(labels_T, np.int64))


def in_square(shown: Example, image_size: int) -> tuple[Example, tuple[int, int]]:
    """The example letterboxed into a square, and the (h, w) of its content. The padding is VOID."""
    square, (h, w) = letterbox(shown.image_HW3, image_size)
    classes = np.full(square.shape[:2], VOID, np.int16)
    classes[:h, :w] = cv2.resize(shown.classes_HW, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    height, width = shown.image_HW3.shape[:2]
    scale = np.array([w / width, h / height] * 2, np.float32)
    return Example(square, classes, shown.boxes_T4 * scale, shown.labels_T), (h, w)


def flipped(shown: Example) -> Example:
    """The example's mirror image."""
    boxes_T4 = shown.boxes_T4.copy()
    boxes_T4[:, [0, 2]] = shown.image_HW3.shape[1] - shown.boxes_T4[:, [2, 0]]
    return Example(shown.image_HW3[:, ::-1], shown.classes_HW[:, ::-1], boxes_T4, shown.labels_T)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class ExampleBatch:
    """images_B3HW: normalised for the backbone. classes_BHW: int64. Boxes and labels of each image."""

    images_B3HW: Tensor
    classes_BHW: Tensor
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]

    def to(self, device: object) -> ExampleBatch:
        images, classes = (x.to(device) for x in (self.images_B3HW, self.classes_BHW))  # type: ignore[call-overload]
        boxes, labels = (tuple(x.to(device) for x in part) for part in (self.boxes, self.labels))  # type: ignore[call-overload]
        return ExampleBatch(images, classes, boxes, labels)


@dataclass(frozen=True)
class LoadedExamples:
    """One part of a step's batch. Nothing is passed over: an annotated example that cannot be read is an error."""

    batch: ExampleBatch
    skipped: tuple[str, ...] = ()


class ExampleDataset(Dataset):
    """The training examples by position: `dataset[step, k]` is example k of a step's batch, mirrored half of the time.

    Epochs are shuffled by (seed, epoch) and follow each other without a gap.
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
        epoch, place = divmod(step * self.batch_size + k, len(self))
        shown = self.data.read(self.data.train[_epoch_order(self.seed, epoch, len(self))[place]])
        mirrored = np.random.default_rng((self.seed, 1, step, k)).random() < 0.5
        return in_square(flipped(shown) if mirrored else shown, self.image_size)[0]

    def collate(self, examples: Sequence[Example]) -> LoadedExamples:
        return LoadedExamples(
            ExampleBatch(
                normalised([e.image_HW3 for e in examples], self.mean, self.std),
                torch.from_numpy(np.stack([e.classes_HW for e in examples])).long(),
                tuple(torch.from_numpy(e.boxes_T4) for e in examples),
                tuple(torch.from_numpy(e.labels_T) for e in examples),
            )
        )


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)
