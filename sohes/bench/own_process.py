"""Run each measurement in a new process, with one thread and memory of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from sohes.work.memory import keep_freed_memory
from sohes.work.pool import one_thread_each

Result = TypeVar("Result")


def in_own_process(measure: Callable[..., Result], *arguments: object) -> Result:
    """What `measure`, a module's function, returns. One thread, as a library's idle threads would count as CPU time."""
    context = get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(1, mp_context=context, initializer=keep_freed_memory) as pool:
        return pool.submit(measure, *arguments).result()
