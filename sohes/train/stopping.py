"""Being asked to stop: SIGTERM, SIGUSR1 and Ctrl-C end a step, then a state is saved, from which the work goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_TO_REQUEUE = 75  # the "temporary failure" of sysexits.h: the same command continues
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def exit_status(signum: int) -> int:
    """Of a process that stopped because of this signal, its state saved."""
    return 130 if signum == signal.SIGINT else EXIT_TO_REQUEUE


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], int]]:
    """A function that says which stopping signal came, 0 if none. A second Ctrl-C stops at once."""
    received: list[int] = []

    def note(signum: int, _: FrameType | None) -> None:
        received.append(signum)
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {}
    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        before = {signum: signal.signal(signum, note) for signum in STOPPING}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
