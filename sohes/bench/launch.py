"""`sohes bench launch`: what the launcher adds to a bare command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sohes.launch import LocalProfile, run_task


def bench_launch(rounds: int = 20, lines: int = 200) -> dict[str, float]:
    """Seconds of a command that prints `lines` lines: bare, launched, and the difference; medians of `rounds`.

    The two take turns, so that whatever else the machine does meets both.
    """
    command = [sys.executable, "-S", "-c", f"for _ in range({lines}): print('x' * 80, flush=True)"]
    profile = LocalProfile(launcher="local", environment={}, grace_seconds=1)
    bare, launched = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            bare.append(_seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)))
            launched.append(_seconds(lambda: run_task(command, task="bench", root=Path(folder), profile=profile)))
    result = {"bare_seconds": statistics.median(bare), "launched_seconds": statistics.median(launched)}
    result["overhead_seconds"] = result["launched_seconds"] - result["bare_seconds"]
    return {name: round(value, 4) for name, value in result.items()}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
