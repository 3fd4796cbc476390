"""Bool tensors on their way from a loader to a device: eight values a byte."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Bits:
    """A bool tensor, packed. It stands where that tensor belongs until the batch is moved: `to` unpacks it there.

    A hundred masks of 448 x 448 are 20 MB as bools, which a worker writes, the trainer pins and a GPU is sent.
    """

    packed_NB: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> Bits:
        """values: bool, of at least two dimensions; each row of the first is packed by itself."""
        rows = values.reshape(len(values), int(np.prod(values.shape[1:])))
        return cls(torch.from_numpy(np.packbits(rows, axis=1, bitorder="little")), values.shape)

    def pin_memory(self) -> Bits:
        return Bits(self.packed_NB.pin_memory(), self.shape)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Tensor:
        """The bool tensor, on the device; from pinned memory without waiting for the copy."""
        packed_NB = self.packed_NB.to(device, non_blocking=non_blocking)
        places = torch.arange(8, dtype=torch.uint8, device=packed_NB.device)
        values = (packed_NB[:, :, None] >> places).bitwise_and_(1).view(torch.bool).flatten(1)
        return values[:, : int(np.prod(self.shape[1:]))].reshape(self.shape)
