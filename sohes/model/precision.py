"""Where autocast must not reach."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside: bfloat16 holds three digits, too few for a position in an image. Inputs need `.float()`."""
    if not torch.amp.is_autocast_available(device.type):  # such as meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
