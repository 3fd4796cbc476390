"""The processes that train together: one, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

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

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_world() -> Iterator[World]:
    """The processes that torchrun started (NCCL on GPUs, gloo on CPUs), until the block ends; alone without it."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _ENVIRONMENT)
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", device_id=device if device.type == "cuda" else None
    )
    try:
        yield World(rank, size, device)
    finally:
        distributed.destroy_process_group()


def is_first_process() -> bool:
    """Whether this process writes files where nothing is trained, so that no world need be joined."""
    return os.environ.get("RANK", "0") == "0"
