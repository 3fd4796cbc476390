"""The memory of this process: the most that it has held, and what becomes of what it frees."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MOST = 2**31 - 1  # bytes: the largest C int
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 2**10  # bytes


def peak_bytes() -> int:
    """The most memory that this process has held.

    From /proc where it exists, since a new process inherits the peak in rusage from the one that started it.
    """
    try:
        return int(re.findall(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[0]) * 2**10
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT


def peak_bytes_of_children() -> int:
    """The most that one of those processes has held which this one started and which have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RUSAGE_UNIT


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
