"""Between the host and a GPU, with as few waits as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_device(device: torch.device, array: np.ndarray) -> Tensor:
    """A copy for which a GPU is not waited for."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor], dtype: type) -> list[np.ndarray]:
    """The tensors as arrays, in one copy for which a GPU waits."""
    flat: np.ndarray = torch.cat([tensor.flatten() for tensor in tensors]).cpu().numpy().astype(dtype)
    parts = np.split(flat, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
