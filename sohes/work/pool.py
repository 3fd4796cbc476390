"""A sharded stage's middle: cut the work into shards and run the missing ones in a pool of processes.

A worker writes its shard whole or not at all (`sohes.work.files.atomic_path`), so whatever stops the pool, finished
shards stay and the next run does the others only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from sohes.errors import SohesError, TemporaryError, remark
from sohes.work.cgroup import cpu_limit
from sohes.work.memory import keep_freed_memory

if TYPE_CHECKING:
    import numpy as np

Result = TypeVar("Result")
Shard = tuple[int, Sequence[Any]]  # its index in the plan, and its items

# A worker is one process on one core: libraries that start a thread per core only get into each other's way.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

_images_done: Any = None  # shared counter of this pool, set in its workers
_compiles: Any = None  # shared flag of this pool, set in its workers
_told = False  # this process has said that it or a worker compiles


def plan_shards(items: Sequence[Any] | np.ndarray, images_per_shard: int) -> list[Sequence[Any]]:
    """Consecutive runs of `images_per_shard` items, usually image ids; the last may be shorter. Of an array, views."""
    if images_per_shard < 1:
        raise ValueError(f"images_per_shard must be positive (got {images_per_shard})")
    whole = cast(Sequence[Any], items)
    return [whole[start : start + images_per_shard] for start in range(0, len(whole), images_per_shard)]


def as_ranges(indices: Sequence[int]) -> str:
    """Rising numbers as `0-3,7`; an empty string for none."""
    spans: list[list[int]] = []
    for index in indices:
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def from_ranges(text: str) -> list[int]:
    """The numbers that `as_ranges` has written."""
    spans = [span.split("-") for span in text.strip().split(",") if span]
    return [index for span in spans for index in range(int(span[0]), int(span[-1]) + 1)]


def jobs_of(shards: Sequence[int], per_job: int) -> list[range]:
    """The jobs for missing shards, each of `per_job` neighbours, finished ones among them.

    The same whichever of its shards are finished, so that a flow that is started again knows the jobs that run.
    """
    firsts = dict.fromkeys(index - index % per_job for index in shards)
    return [range(first, first + per_job) for first in firsts]


def default_workers() -> int:
    """Processes of a local pool: SOHES_WORKERS, or one for each CPU that this process may use.

    Not of the machine: a container or a job may be kept to some CPUs, or to the time of so many.
    """
    wanted = os.environ.get("SOHES_WORKERS")
    if wanted is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = cpu_limit()
        return cpus if limit is None else max(1, min(cpus, int(limit)))
    if not wanted.isdecimal() or int(wanted) < 1:
        raise SohesError(f"SOHES_WORKERS must be a positive number of processes (got {wanted!r})")
    return int(wanted)


def report_images(count: int = 1) -> None:
    """Called by a worker now and then: moves the progress bar inside a shard. Without a pool it does nothing."""
    if _images_done is not None:
        with _images_done.get_lock():
            _images_done.value += count


def report_compiling() -> None:
    """Called by a process that compiles functions: one line on stderr, in a pool one for all of its workers."""
    global _told
    if _compiles is not None:
        _compiles.value = True
    elif not _told and multiprocessing.parent_process() is None:  # the parent of another worker has words of its own
        _told = True
        when = "the first time, or every time if they cannot be kept (`sohes doctor`)"
        remark(f"compiling functions, which takes up to a minute {when}")


def run_shards(
    worker: Callable[[Shard], Result],
    shards: Sequence[Shard],
    *,
    workers: int,
    description: str,
    kept: bool = True,
) -> list[Result]:
    """What `worker((index, items))` returns for each shard, in their order, with a progress bar in images.

    workers: processes; with 0 or 1 the shards run in this process, one after the other. The worker must be picklable
    (a module's function, or a `partial` of one). SohesError if a process dies or the user interrupts; an error of a
    worker stops the others and is raised as it is. kept: the worker writes its shard, which stays in every case; else
    only what is returned counts, and nothing is left of a run that was stopped.
    """
    with _progress() as progress:
        bar = progress.add_task(description, total=sum(len(items) for _, items in shards))
        finished = 0
        try:
            if workers <= 1 or len(shards) <= 1:
                results = []
                for shard in shards:
                    results.append(worker(shard))
                    finished += 1
                    progress.advance(bar, len(shard[1]))
                return results
            with _pool(min(workers, len(shards))) as (pool, counter, compiles):
                futures = {pool.submit(worker, shard): shard for shard in shards}
                images = 0
                for newly_done in _completions(futures):
                    finished += len(newly_done)
                    images += sum(len(futures[future][1]) for future in newly_done)
                    progress.update(bar, completed=max(images, counter.value))
                    if compiles.value:
                        report_compiling()
                return [future.result() for future in futures]
        except KeyboardInterrupt:
            raise SohesError(f"{description}: stopped by the user; {_left(finished, shards, kept)}") from None
        except BrokenProcessPool:
            reason = f"{description}: a worker process died, most often because it ran out of memory"
            remedy = f"with fewer processes than {workers} (SOHES_WORKERS) if memory was short"
            raise TemporaryError(f"{reason}; {_left(finished, shards, kept)}, {remedy}") from None


def _left(finished: int, shards: Sequence[Shard], kept: bool) -> str:
    if not kept:
        return "run the same command again"
    return f"{finished} of {len(shards)} shards are finished and kept: run the same command again for the rest"


def _completions(futures: dict[Future, Shard]) -> Iterator[set[Future]]:
    """The futures that ended, four times a second; raises the first error that one of them ended with."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        yield done


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[tuple[ProcessPoolExecutor, Any, Any]]:
    """A pool that is gone when the block is left, whatever its workers are in the middle of.

    With it, shared by its workers: the count of images done, and whether one of them compiles.
    """
    # spawn, not fork: a forked copy of a process with threads (torch, Arrow, OpenCV) may hang.
    context = multiprocessing.get_context("spawn")
    counter, compiles = context.Value("q", 0), context.Value("b", False)
    others = set(multiprocessing.active_children())
    with one_thread_each():
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(counter, compiles))
        try:
            yield pool, counter, compiles
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown()


def _start_worker(counter: Any, compiles: Any) -> None:
    global _images_done, _compiles
    _images_done, _compiles = counter, compiles
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: end without a traceback each
    import cv2

    cv2.setNumThreads(1)  # it has threads of its own that the environment does not rule


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile compute with one thread: their libraries read this when imported."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
