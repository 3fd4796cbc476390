"""Stopping on request: SIGTERM, SIGUSR1, Ctrl-C and a closed terminal let the step end, then the state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sohes.work.ended import forget_terminal

EXIT_TO_REQUEUE = 75  # the "temporary failure" of sysexits.h: the same command continues
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def exit_status(signum: int) -> int:
    """Of a process that saved its state and stopped because of this signal."""
    return 130 if signum == signal.SIGINT else EXIT_TO_REQUEUE


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """A function that returns the first stopping signal so far, 0 if none. A second Ctrl-C stops at once."""
    received: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        if signum == signal.SIGHUP:
            forget_terminal()
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        detached = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup: it outlives its terminal
        wanted = [signum for signum in STOPPING if not (detached and signum == signal.SIGHUP)]
        before = {signum: signal.signal(signum, note) for signum in wanted}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
