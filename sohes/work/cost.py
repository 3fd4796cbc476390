"""What a stage cost: time and memory, kept beside the pipeline's state for the report. Standard library only."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sohes.work.files import write_json

FOLDER = ".sohes/cost"
_KIB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # ru_maxrss is bytes on macOS, KiB elsewhere


@contextmanager
def measured(stage: str, root: Path) -> Iterator[None]:
    """Write `.sohes/cost/<stage>.json` if the block ends well: seconds on the clock and of processors, memory in GiB.

    memory_gib: the larger of this process and its largest child. gpu_memory_gib: the most that torch held on one GPU;
    None without one.
    """
    clock, processors = time.perf_counter(), _processor_seconds()
    yield
    cost = {
        "seconds": time.perf_counter() - clock,
        "processor_seconds": _processor_seconds() - processors,
        "memory_gib": max(usage.ru_maxrss for usage in _usages()) * _KIB_PER_UNIT / 2**20,
        "gpu_memory_gib": _gpu_memory_gib(),
    }
    write_json(root / FOLDER / f"{stage}.json", {name: value and round(value, 3) for name, value in cost.items()})


def read_costs(root: Path) -> dict[str, dict[str, float | None]]:
    """The costs by stage of those that have been measured."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((root / FOLDER).glob("*.json"))}


def _usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _processor_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


def _gpu_memory_gib() -> float | None:
    torch = sys.modules.get("torch")  # a stage that never imported it has used no GPU
    if torch is None or not torch.cuda.is_available():
        return None
    return max(torch.cuda.max_memory_allocated(k) for k in range(torch.cuda.device_count())) / 2**30
