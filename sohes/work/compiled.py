"""Functions that numba compiles, which takes half a minute in all, so the result is kept on disk where possible."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial, update_wrapper
from pathlib import Path
from threading import RLock, Thread
from types import ModuleType
from typing import Any

from sohes.work.surroundings import settle, temporary_home

settle()  # also where no command of ours was started: numba asks for the home
_one_at_a_time = RLock()


class _Compiled:
    """A function that is compiled, or read from the disk, when it is first called; until then numba is not imported.

    From then on its own module calls what was compiled. That knows nothing of us, so what it calls, by a global name,
    is made with it.
    """

    def __init__(self, function: Callable, options: dict[str, Any]) -> None:
        self._function, self._options, self._stamp = function, options, _stamp(function)
        self._dispatcher: Any = None
        self._is_ready = False
        update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        return self._made()(*arguments)

    def __getattr__(self, name: str) -> Any:
        """Numba's, such as `stats`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._made(), name)

    def _made(self) -> Any:
        if self._is_ready:
            return self._dispatcher
        with _one_at_a_time:
            if self._dispatcher is None:
                # An edited file's cache must not hold what this process has read of it before.
                keep = self._stamp == _stamp(self._function)
                self._dispatcher = _dispatcher(self._function, self._options, keep=keep)
                self._link()
                self._is_ready = True
        return self._dispatcher

    def _link(self) -> None:
        scope = self._function.__globals__
        for called in self._function.__code__.co_names:
            if isinstance(scope.get(called), _Compiled):
                scope[called] = scope[called]._made()
        if scope.get(self._function.__name__) is self:
            scope[self._function.__name__] = self._dispatcher


def compiled(function: Callable | None = None, /, **options: Any) -> Any:
    """`numba.njit` that keeps its result wherever it can, and waits for the first call.

    In NUMBA_CACHE_DIR, beside the source file, in the user's cache, or in a temporary folder of the user's; if none
    can be written to, every process compiles what it uses.
    options: numba's, as in `@compiled(nogil=True)`.
    """
    if function is None:
        return partial(compiled, **options)
    return _Compiled(function, options)


def _stamp(function: Callable) -> int | None:
    """When the function's file was changed."""
    with suppress(OSError):
        return Path(function.__code__.co_filename).stat().st_mtime_ns
    return None


def _dispatcher(function: Callable, options: dict[str, Any], *, keep: bool) -> Any:
    numba = _numba()
    if keep:
        with suppress(RuntimeError):  # numba finds no folder
            return numba.njit(cache=True, **options)(function)
        if home := temporary_home():
            setattr(numba.config, "CACHE_DIR", str(home / "numba"))  # noqa: B010 (the stubs do not know it)
            with suppress(RuntimeError):
                return numba.njit(cache=True, **options)(function)
    return numba.njit(**options)(function)


@cache
def _numba() -> ModuleType:
    """It takes a fifth of a second to import."""
    import numba
    from numba.core import event

    class Announcer(event.Listener):
        """Hears of what numba compiles, and not of what it reads from the disk."""

        def on_start(self, event: event.Event) -> None:
            from sohes.work.pool import report_compiling  # with libraries that few commands need

            report_compiling()

        def on_end(self, event: event.Event) -> None:
            pass

    event.register("numba:compile", Announcer())
    return numba


def kept_in() -> Path | None:
    """The folder of compiled functions; None if they are not kept."""
    path = _nothing.stats.cache_path
    return Path(path) if path else None


def begin_loading() -> None:
    """In a thread: whichever compiled function is called first waits most of a second for numba.

    A process that is forked meanwhile would wait for ever; ours are spawned.
    """
    Thread(target=_nothing).start()


@compiled
def _nothing():
    return None
