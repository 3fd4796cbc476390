"""Functions that numba compiles, which takes half a minute in all, so the result is kept on disk where possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numba
from numba.core import event

from sohes.work.surroundings import settle, temporary_home

settle()  # also where no command of ours was started: numba asks for the home


def compiled(function: Callable | None = None, /, **options: Any) -> Any:
    """`numba.njit` that keeps its result wherever it can.

    In NUMBA_CACHE_DIR, beside the source file, in the user's cache, or in a temporary folder of the user's; if none
    can be written to, every process compiles what it uses.
    options: numba's, as in `@compiled(nogil=True)`.
    """
    if function is None:
        return partial(compiled, **options)
    keep = numba.njit(cache=True, **options)
    with suppress(RuntimeError):  # numba finds no folder
        return keep(function)
    if home := temporary_home():
        setattr(numba.config, "CACHE_DIR", str(home / "numba"))  # noqa: B010 (the stubs do not know it)
        with suppress(RuntimeError):
            return keep(function)
    return numba.njit(**options)(function)


def kept_in() -> Path | None:
    """The folder of compiled functions; None if they are not kept."""
    path = _nothing.stats.cache_path
    return Path(path) if path else None


def begin_loading() -> None:
    """In a thread: whichever compiled function is called first waits half a second for numba's own machinery."""
    Thread(target=_nothing).start()


class _Announcer(event.Listener):
    """Hears of what numba compiles, and not of what it reads from the disk."""

    def on_start(self, event: event.Event) -> None:
        from sohes.work.pool import report_compiling  # with libraries that few commands need

        report_compiling()

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcer())


@compiled
def _nothing():
    return None
