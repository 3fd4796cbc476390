"""A process that is told to end cleans up first. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal was closed


def clean_up_when_ended() -> None:
    """Let `finally` blocks run when the process is told to end: by default it is gone at once.

    What it was started to ignore, as `nohup` does SIGHUP, it still ignores.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def forget_terminal() -> None:
    """Send what is said from here on nowhere: to write to a terminal that was closed is an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with contextlib.suppress(OSError):  # closed
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def _end(number: int, frame: object) -> NoReturn:
    if number == signal.SIGHUP:
        forget_terminal()
    raise SystemExit(128 + number)
