"""How this process gives memory back, where the C library lets one say."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MOST = 2**31 - 1  # bytes: the largest C int


def keep_freed_memory() -> bool:
    """Keep what is freed for what is needed next; False where that cannot be had: without Linux and glibc.

    By default glibc hands every large buffer back to the kernel, which clears its pages when they are needed again: a
    sixth of the CPU time of training and of phase 1 (docs/log.md). In return the process never shrinks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none; Windows takes no None
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _MOST)) and bool(mallopt(_M_MMAP_MAX, 0))
