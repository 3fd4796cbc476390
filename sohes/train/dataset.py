"""Labelled images as training batches: which image when, read, augmented, collated.

Order and randomness are pure functions of (seed, step, position in the step's batch): the same samples with any
number of workers or processes, before and after a restart.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sohes import masks
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError
from sohes.masks import forest
from sohes.params import AugmentParams
from sohes.structures import Batch, ImageRecord, Targets
from sohes.train import augment
from sohes.train.augment import Labelled, View

PASTED_AREA = (0.002, 0.3)  # of its image: a speck teaches nothing, and a background would cover the whole host
_RECORDS_KEPT = 1024  # in memory, by each worker: small data sets are read once, large ones cost some ten MB
_ORDER, _INITIAL, _PAIR = range(3)  # independent random streams
Position = tuple[int, int]  # (step, place in the step's batch)
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """A strong view and what it should yield. skipped: `name: reason` of records that could not be used."""

    shown: Labelled
    image_id: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Phase 3's second branch: a weak view for the teacher and a strong one for the student, of one image.

    strong: its masks are only those pasted from another image. image_hw: of the photograph.
    """

    weak_HW3: np.ndarray
    weak: View
    strong: Labelled
    strong_view: View
    image_id: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class PairBatch:
    """Both branches of phase 3. initial: strong views with the initial labels. weak_B3HW, strong_B3HW: normalised."""

    initial: Batch
    weak_B3HW: torch.Tensor
    strong_B3HW: torch.Tensor
    pairs: tuple[Pair, ...] = field(default=())

    def to(self, device: object) -> PairBatch:
        weak, strong = (x.to(device) for x in (self.weak_B3HW, self.strong_B3HW))  # type: ignore[call-overload]
        return PairBatch(self.initial.to(device), weak, strong, self.pairs)


@dataclass(frozen=True)
class Loaded:
    """One part of a step's batch, and the records that were passed over for it."""

    batch: Batch | PairBatch
    skipped: tuple[str, ...]


class TrainingSet(Protocol):
    """What `load` reads: samples by position, and how some of them make a batch (something like `Loaded`)."""

    def __getitem__(self, position: Position, /) -> Any: ...

    def collate(self, samples: Sequence[Any], /) -> Any: ...


class LabelDataset(Dataset):
    """Strong views of the labelled images, by position: `dataset[step, k]` is sample k of a step's batch.

    Epochs are shuffled by (seed, epoch) and follow each other without a gap. A record that cannot be used is named in
    the sample's `skipped` and the next one in the order takes its place; SohesError if none is left.
    normalisation: mean and std of RGB in [0, 1], three numbers each.
    """

    def __init__(
        self,
        images: ImageStore,
        labels: LabelStore,
        *,
        image_size: int,
        max_targets: int,
        augment: AugmentParams,
        normalisation: tuple[Sequence[float], Sequence[float]],
        batch_size: int,
        seed: int,
    ) -> None:
        self.images, self.labels = images, labels
        self.image_size, self.max_targets, self.augment = image_size, max_targets, augment
        self.mean, self.std = (tuple(float(v) for v in part) for part in normalisation)
        self.batch_size, self.seed = batch_size, seed
        self.image_ids = list(labels.image_ids)
        self._records: dict[int, ImageRecord] = {}
        if not self.image_ids:
            raise SohesError("there is not one labelled image to train on: run `sohes explore` first")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: Position) -> Sample:
        return self.sample_for(*position)

    def sample_for(self, step: int, k: int) -> Sample:
        """Sample k of the batch of `step`."""
        rng = np.random.default_rng((self.seed, _INITIAL, step, k))
        (record, image), skipped = _first(self._candidates(_INITIAL, step, k), self._read)
        kept = augment.sample_across_scales(masks.areas(record.masks), self.max_targets, rng=rng)
        chosen = forest.select(record.masks, kept)
        guest, skipped_guests = self._guest(rng)
        shown = Labelled(image, masks.decode(chosen), chosen.parents)
        strong = augment.strong_view(shown, self._strong_geometry(image, rng), self.augment, rng=rng, guest=guest)
        return Sample(strong, record.image_id, skipped + skipped_guests)

    def collate(self, samples: Sequence[Sample]) -> Loaded:
        return Loaded(self._batch(samples), tuple(reason for s in samples for reason in s.skipped))

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        return Batch(
            normalised([s.shown.image_HW3 for s in samples], self.mean, self.std),
            tuple(targets_of(s.shown) for s in samples),
            tuple(s.image_id for s in samples),
        )

    def _candidates(self, stream: int, step: int, k: int) -> Iterator[int]:
        """Image ids from a position of the endless shuffled order on, as many as there are images."""
        epoch, place = divmod(step * self.batch_size + k, len(self))
        order = _epoch_order(self.seed, stream, epoch, len(self))
        return (self.image_ids[order[(place + i) % len(self)]] for i in range(len(self)))

    def _strong_geometry(self, image_HW3: np.ndarray, rng: np.random.Generator) -> View:
        low, high = self.augment.scale_min, self.augment.scale_max
        size = self.image_size
        return augment.strong_geometry(*image_HW3.shape[:2], size=size, scale_min=low, scale_max=high, rng=rng)

    def _read(self, image_id: int) -> tuple[ImageRecord, np.ndarray]:
        record, image = self._record(image_id), self.images.read(image_id)
        labelled = (record.masks.height, record.masks.width)
        if image.shape[:2] != labelled:
            raise ValueError(
                f"the labels are for {labelled[0]} x {labelled[1]} pixels, the image has "
                f"{image.shape[0]} x {image.shape[1]}"
            )
        return record, image

    def _record(self, image_id: int) -> ImageRecord:
        if image_id not in self._records:
            if len(self._records) == _RECORDS_KEPT:
                self._records.pop(next(iter(self._records)))
            self._records[image_id] = self.labels.record(image_id)
        return self._records[image_id]

    def _guest(self, rng: np.random.Generator) -> tuple[Labelled | None, tuple[str, ...]]:
        """With probability `copy_paste`: a root with its descendants, cut out of another image to its box."""
        if rng.random() >= self.augment.copy_paste:
            return None, ()
        start = int(rng.integers(len(self)))
        candidates = (self.image_ids[(start + i) % len(self)] for i in range(len(self)))
        (record, image), skipped = _first(candidates, self._read)
        areas = masks.areas(record.masks)
        low, high = (fraction * image.shape[0] * image.shape[1] for fraction in PASTED_AREA)
        roots = np.flatnonzero((record.masks.parents < 0) & (areas >= low) & (areas <= high))
        if not len(roots):
            return None, skipped
        chosen = forest.select(record.masks, augment.subtree(record.masks.parents, int(rng.choice(roots))))
        decoded = masks.decode(chosen)
        y0, x0, y1, x1 = masks.bounding_boxes(np.asarray(decoded.any(axis=0))[None])[0]
        return Labelled(image[y0:y1, x0:x1], decoded[:, y0:y1, x0:x1], chosen.parents), skipped


class PairDataset(LabelDataset):
    """Phase 3: `dataset[step, k]` is a sample with its initial labels, and a weak and a strong view of another image.

    The second image comes from its own shuffled order, so that both branches see every image.
    """

    def __getitem__(self, position: Position) -> tuple[Sample, Pair]:  # type: ignore[override]
        return self.sample_for(*position), self.pair_for(*position)

    def pair_for(self, step: int, k: int) -> Pair:
        """Image k of the second branch of `step`."""
        rng = np.random.default_rng((self.seed, _PAIR, step, k))
        (record, image), skipped = _first(self._candidates(_PAIR, step, k), self._read)
        weak = augment.weak_view(*image.shape[:2], size=self.image_size, rng=rng)
        strong = self._strong_geometry(image, rng)
        guest, skipped_guests = self._guest(rng)
        no_masks = Labelled(image, np.zeros((0, *image.shape[:2]), bool), np.zeros(0, np.int64))
        pasted = augment.strong_view(no_masks, strong, self.augment, rng=rng, guest=guest)
        return Pair(weak.apply_to_image(image), weak, pasted, strong, record.image_id, skipped + skipped_guests)

    def collate(self, samples: Sequence[tuple[Sample, Pair]]) -> Loaded:  # type: ignore[override]
        initial, pairs = zip(*samples, strict=True)
        batch = PairBatch(
            self._batch(initial),
            normalised([p.weak_HW3 for p in pairs], self.mean, self.std),
            normalised([p.strong.image_HW3 for p in pairs], self.mean, self.std),
            pairs,
        )
        return Loaded(batch, tuple(reason for s in (*initial, *pairs) for reason in s.skipped))


def normalised(squares: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B, 3, S, S) float32 for the backbone from uint8 squares; mean and std of RGB in [0, 1]."""
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()
    scaled_mean, scaled_std = (255 * torch.tensor(part).view(3, 1, 1) for part in (mean, std))
    return images.sub_(scaled_mean).div_(scaled_std).contiguous()


def targets_of(shown: Labelled) -> Targets:
    """A labelled square as what the network should yield."""
    ancestors = forest.forest_ancestors(shown.parents_N)
    return Targets(torch.from_numpy(shown.masks_NHW), torch.from_numpy(ancestors))


def _first(candidates: Iterator[int], read: Callable[[int], T]) -> tuple[T, tuple[str, ...]]:
    """What `read` makes of the first candidate that it can read, and why not of those before it."""
    skipped: list[str] = []
    for image_id in candidates:
        try:
            return read(image_id), tuple(skipped)
        except (SohesError, OSError, ValueError, KeyError) as error:
            skipped.append(f"image {image_id}: {error}")
    raise SohesError(f"none of {len(skipped)} labelled images can be used; the last one: {skipped[-1]}")


@lru_cache(maxsize=4)
def _epoch_order(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, _ORDER, stream, epoch)).permutation(count)


# ---------------------------------------------------------------- loading


def positions(
    *, start: int, steps: int, batch_size: int, accumulate: int, rank: int, world_size: int
) -> Iterator[list[Position]]:
    """The positions of every part of every step in [start, steps) that one of `world_size` processes takes.

    Together the processes take each of a step's `batch_size` positions once. SohesError if it cannot be cut evenly.
    """
    if batch_size % (accumulate * world_size):
        raise SohesError(
            f"a batch of {batch_size} images cannot be cut into {accumulate} equal parts for each of {world_size} "
            "processes: change batch_size or accumulate"
        )
    part = batch_size // (accumulate * world_size)
    first = rank * part * accumulate
    for step in range(start, steps):
        for a in range(accumulate):
            begin = first + a * part
            yield [(step, k) for k in range(begin, begin + part)]


def load(dataset: TrainingSet, parts: Iterable[list[Position]], *, workers: int) -> Generator[Loaded, None, None]:
    """Batches at the given positions, in order; `workers` processes read ahead, 0 reads in this one.

    The workers end when the generator is used up, fails or is closed: whoever leaves it half-way must close it.
    """
    loader: DataLoader = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=parts,
        collate_fn=dataset.collate,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),  # it would draw from torch's global one otherwise
        multiprocessing_context="forkserver" if workers else None,  # a fork of torch's threads may hang
        worker_init_fn=_start_worker,
    )
    try:
        yield from loader
        return
    except SohesError as error:  # a worker's comes with its traceback; the sentence is the last line
        sentence = str(error).strip().splitlines()[-1].partition("SohesError: ")
        traceback.clear_frames(error.__traceback__)  # they hold the workers, which would keep the process from ending
    raise SohesError(sentence[2] or sentence[0])


def _start_worker(_: int) -> None:
    """One thread a worker; signals that ask to save and stop are the main process's, which ends its workers itself."""
    cv2.setNumThreads(0)
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
