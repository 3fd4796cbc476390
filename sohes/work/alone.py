"""One process at a time where two would write the same files."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sohes.errors import TemporaryError


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of those that train together: the one that writes."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def alone(lock: Path, what: str, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the file `lock` until the block ends; the system lets go of it if the process is killed.

    what: the work, for the sentence. patience: seconds to wait for the lock, which the workers of a killed process hold
    until they end. TemporaryError, with the other's process and machine, if it is held after that.
    """
    holder = lock.with_suffix(".holder")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(lock).acquire(timeout=patience)
    except Timeout:
        by = "another process"
        with suppress(OSError, UnicodeDecodeError):
            by = holder.read_text("utf-8")
        raise TemporaryError(f"{by} is at work on {what} already: wait until it ends, or stop it") from None
    with held:
        holder.write_text(f"process {os.getpid()} of {socket.gethostname()}", "utf-8")
        yield
