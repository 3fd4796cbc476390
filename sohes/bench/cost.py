"""Cost of a piece of work: wall seconds, CPU seconds, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sohes.work.memory import peak_bytes

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Cost:
    """Medians over the repeats. peak_mb: growth of the process's peak memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float

    def figures(self, digits: int = 5) -> dict[str, float]:
        """The figures that every benchmark prints."""
        return {
            "seconds_median": round(self.seconds, digits),
            "cpu_seconds_median": round(self.cpu_seconds, digits),
            "peak_mb": round(self.peak_mb, 1),
        }


def cost_of(work: Callable[[], Outcome], *, repeats: int) -> tuple[Cost, Outcome]:
    """Cost of `work`, repeated in this process, and what it returned last. Compile before."""
    before = peak_gb()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        outcome = work()
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    return Cost(statistics.median(seconds), statistics.median(cpu_seconds), 1000 * (peak_gb() - before)), outcome


def compared(ours: Cost, reference: Cost) -> dict[str, float]:
    """CPU seconds of the reference, and their ratio to ours."""
    return {
        "reference_cpu_seconds": round(reference.cpu_seconds, 4),
        "ratio": round(reference.cpu_seconds / ours.cpu_seconds, 3),
    }


def peak_gb() -> float:
    """Peak memory of this process in 10^9 bytes."""
    return peak_bytes() / 1e9
