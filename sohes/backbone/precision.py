"""The device that computes, where bfloat16 autocast helps on it, and where that must not reach."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def best_device() -> torch.device:
    """The first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: torch.device, wanted: bool) -> AbstractContextManager:
    """bfloat16 autocast if it is wanted and the device multiplies in it: other CPUs take nine times as long (AVX2)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and multiplies_in_bfloat16(device))


def multiplies_in_bfloat16(device: torch.device) -> bool:
    return device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast inside: bfloat16 holds three digits, too few for a position in an image. Inputs need `.float()`."""
    if not torch.amp.is_autocast_available(device.type):  # such as meta
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
