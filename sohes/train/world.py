"""The processes that train together: one, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from sohes.errors import LOST, SohesError, TemporaryError

# How long a process waits for another that says nothing: longer than compiling a network or writing a checkpoint takes.
PATIENCE = timedelta(minutes=10)
_ENVIRONMENT = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process, one of `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, records and progress."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            distributed.all_reduce(values)
            values /= self.size
        return values

    def gather(self, value: T) -> list[T]:
        """What each process holds, in the order of their ranks; anything that can be pickled."""
        values = [value] * self.size
        if self.size > 1:
            distributed.all_gather_object(values, value)
        return values

    def of_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in every process; anything that can be pickled.

        For what is long to compute, or could differ between the processes. A SohesError of `make` is raised in each.
        """
        made: list[Any] = [None]
        if self.is_first:
            try:
                made = [make()]
            except SohesError as error:
                made = [error]
        if self.size > 1:
            distributed.broadcast_object_list(made)
        if isinstance(made[0], SohesError):
            raise made[0]
        return made[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_world() -> Iterator[World]:
    """The processes that torchrun started (NCCL on GPUs, gloo on CPUs), until the block ends; alone without it.

    TemporaryError in those that are left if one of them has ended, or has been silent for as long as PATIENCE.
    """
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    try:
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            device_id=device if device.type == "cuda" else None,
            timeout=PATIENCE,
        )
        yield World(rank, size, device)
    except RuntimeError as error:
        if not _is_of_the_others(error):
            raise
        raise TemporaryError(
            f"process {rank} of the {size} that train together {LOST}, which was killed, failed or said nothing "
            f"for {PATIENCE.total_seconds():.0f} seconds: see what the others say, and run the same command again, "
            "which continues from the last checkpoint"
        ) from error
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _is_of_the_others(error: RuntimeError) -> bool:
    """Whether it came from the connection to the other processes; gloo's errors have no type of their own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
