"""What a stage costs: every attempt and shard records its time and memory, and the finished stage adds them up."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sohes.params import Params
from sohes.pipeline import STAGES
from sohes.project import Project, read_json
from sohes.work.alone import is_first_process
from sohes.work.files import write_json
from sohes.work.identity import identity
from sohes.work.memory import peak_bytes, peak_bytes_of_children

EVERY = 10.0  # seconds between two updates of a record: what kill -9 can lose
ADDED, LARGEST = ("seconds", "processor_seconds"), ("memory_gib", "gpu_memory_gib")

Cost = dict[str, float | None]
_signed: ContextVar[dict[str, str]] = ContextVar("signed")  # of the stage that is being measured


@contextmanager
def measured(
    stage: str, params: Params, root: Path, *, whole: bool = True, options: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Record the block as one attempt at a stage or, not `whole`, at one of its shards; also if it fails or is killed.

    A whole stage that ends well adds up all attempts with the same params and options in `metrics/cost/<stage>.json`:
    seconds on the clock and of processors; of memory, in GiB, the most of any. memory_gib: the larger of a process and
    its largest child. gpu_memory_gib: the most that torch held on one GPU; None if it used none.
    made_by: what the block has told `sign`, if anything.
    Of processes that train together only the first is measured.
    """
    if not is_first_process():
        yield
        return
    made_of = _made_of(stage, params, options or {})
    folder = Project(root).state("cost") / stage
    record = folder / f"{uuid.uuid4().hex}.json"
    clock, processors = time.perf_counter(), _processor_seconds()
    signed: dict[str, str] = {}
    before = _signed.set(signed)

    def write() -> None:
        cost: Cost = {
            "seconds": time.perf_counter() - clock,
            "processor_seconds": _processor_seconds() - processors,
            "memory_gib": max(peak_bytes(), peak_bytes_of_children()) / 2**30,
            "gpu_memory_gib": _gpu_memory_gib(),
        }
        write_json(record, {"made_of": made_of, "cost": cost})

    try:
        with _repeatedly(write, EVERY):
            yield
    except BaseException:
        with suppress(OSError):  # the error itself is what the user has to see
            write()
        raise
    finally:
        _signed.reset(before)
    write()
    if whole:
        _add_up(folder, made_of, Project(root).cost(stage), signed)


def sign(run_id: str) -> None:
    """Note which run makes the stage that is being measured; nothing is noted outside of one."""
    if (signed := _signed.get(None)) is not None:
        signed["made_by"] = run_id


def read_costs(root: Path) -> dict[str, Cost]:
    """The costs of the stages that have been measured, in the pipeline's order."""
    return {stage: {key: found[key] for key in (*ADDED, *LARGEST)} for stage, found in _read(root).items()}


def makers(root: Path) -> dict[str, str]:
    """Which run made what lies there of each stage, as far as it has signed."""
    return {stage: found["made_by"] for stage, found in _read(root).items() if "made_by" in found}


def _read(root: Path) -> dict[str, dict[str, Any]]:
    files = {stage: Project(root).cost(stage) for stage in STAGES}
    needs = (*ADDED, *LARGEST)
    return {
        stage: read_json(path, f"run `sohes {stage}` again", needs=needs)
        for stage, path in files.items()
        if path.exists()
    }


def total(costs: Sequence[Cost]) -> Cost:
    """Times added, and the largest amounts of memory; None where nothing was measured."""
    measured = {name: [value for cost in costs if (value := cost[name]) is not None] for name in (*ADDED, *LARGEST)}
    sums: Cost = {name: round(sum(measured[name]), 3) for name in ADDED}
    return sums | {name: round(max(measured[name]), 3) if measured[name] else None for name in LARGEST}


def _add_up(folder: Path, made_of: str, out: Path, signed: Mapping[str, str]) -> None:
    """Write the total of the records of the same params and options, then remove them."""
    remedy = "remove it and run the same command again"
    records = {path: read_json(path, remedy, needs=["made_of", "cost"]) for path in folder.glob("[!.]*.json")}
    own = {path: record["cost"] for path, record in records.items() if record["made_of"] == made_of}
    write_json(out, {**total(list(own.values())), **signed})
    for path in own:
        path.unlink()


def _made_of(stage: str, params: Params, options: Mapping[str, str]) -> str:
    """Of what the stage computes: an attempt with other params is not a part of it."""
    return identity([params.model_dump(mode="json", include={"seed", *STAGES[stage].sections}), dict(options)])


@contextmanager
def _repeatedly(work: Callable[[], None], seconds: float) -> Iterator[None]:
    """Do the work again and again in a thread, until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):  # torch may be half imported, the disk full: the next time will do
                work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# ---------------------------------------------------------------- measurements


def _processor_seconds() -> float:
    """Of this process and its children; the system itself counts a child only after its end."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + _of_living_children()


def _of_living_children() -> float:
    """0 where there is no /proc."""
    ticks = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # it has ended in this moment
            for pid in listed.read_text().split():
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # utime, stime, and those of its own children
    return ticks / os.sysconf("SC_CLK_TCK")


def _gpu_memory_gib() -> float | None:
    torch = sys.modules.get("torch")  # a stage that never imported it has used no GPU
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(torch.cuda.max_memory_allocated(k) for k in range(torch.cuda.device_count())) / 2**30
