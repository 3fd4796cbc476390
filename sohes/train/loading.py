"""Which samples a process takes at which step, in which order, and how they are loaded.

Order and randomness are pure functions of (stage, seed, step, position in the step's batch): the same samples with any
number of workers or processes, before and after a restart.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from sohes.errors import SohesError
from sohes.structures import Movable
from sohes.train.shuffle import Shuffled
from sohes.train.stopping import STOPPING

Position = tuple[int, int]  # (step, place in the step's batch)
KEPT = 2**20  # an order of fewer items is kept in memory, 8 bytes each


@dataclass(frozen=True)
class Loaded(Movable):
    """One part of a step's batch. skipped: `name: reason` of the records that could not be used for it."""

    batch: Any  # Movable
    skipped: tuple[str, ...] = ()


class TrainingSet(Protocol):
    """Samples by position, and how some of them make a batch."""

    def __getitem__(self, position: Position, /) -> Any: ...

    def collate(self, samples: Sequence[Any], /) -> Loaded: ...


def stage_seed(seed: int, stage: str) -> int:
    """The seed of a stage's data and steps: with one for all, phase 3 would begin with phase 2's very samples."""
    return int(np.random.SeedSequence((seed, *stage.encode())).generate_state(1, np.uint64)[0])


def from_epochs(place: int, count: int, *key: int) -> Iterator[int]:
    """The item at a place of the endless order of `count` items, then the rest of its epoch.

    Epochs follow each other without a gap; each is shuffled by (key, epoch) alone. The order of many items is computed
    place by place: as numbers it would take 90 MB of every process for 11 million.
    """
    epoch, first = divmod(place, count)
    order = _epoch_order(count, *key, epoch)
    return (int(order[(first + i) % count]) for i in range(count))


@lru_cache(maxsize=4)
def _epoch_order(count: int, *key: int) -> np.ndarray | Shuffled:
    return np.random.default_rng(key).permutation(count) if count < KEPT else Shuffled(count, key)


def normalised(squares: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """(B, 3, S, S) float32 for the backbone from uint8 squares; mean and std of RGB in [0, 1]."""
    return normalised_tensor(torch.from_numpy(np.stack(squares)), mean, std)


def normalised_tensor(squares_BSS3: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """The same from a uint8 tensor, on its device."""
    images, device = squares_BSS3.permute(0, 3, 1, 2).float(), squares_BSS3.device
    scaled_mean, scaled_std = (
        255 * torch.tensor(part).view(3, 1, 1).to(device, non_blocking=True) for part in (mean, std)
    )
    return images.sub_(scaled_mean).div_(scaled_std).contiguous()


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


def load(
    dataset: TrainingSet, parts: Iterable[list[Position]], *, workers: int, pinned: bool = False
) -> Generator[Loaded, None, None]:
    """Batches at the given positions, in order; `workers` processes read ahead, 0 reads in this one.

    pinned: in memory that a GPU copies from while it computes.
    The workers end when the generator is exhausted, fails or is closed; a caller that stops early must close it.
    """
    loader: DataLoader = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=parts,
        collate_fn=dataset.collate,
        num_workers=workers,
        pin_memory=pinned,
        prefetch_factor=2 if workers else None,  # pinned memory is slow to get: 16 GB of it took a minute
        generator=torch.Generator().manual_seed(0),  # else it draws from torch's global one
        multiprocessing_context="forkserver" if workers else None,  # a fork of torch's threads may hang
        worker_init_fn=_start_worker,
    )
    try:
        yield from loader
        return
    except SohesError as error:  # a worker's comes with its traceback; the sentence is the last line
        kind = type(error)
        sentence = str(error).strip().splitlines()[-1].partition(f"{kind.__name__}: ")
        traceback.clear_frames(error.__traceback__)  # they hold the workers, which would keep the process from ending
    raise kind(sentence[2] or sentence[0])


def _start_worker(_: int) -> None:
    """One thread per worker; stop signals are left to the main process, which ends its workers itself."""
    cv2.setNumThreads(0)
    for signum in STOPPING:
        signal.signal(signum, signal.SIG_IGN)
