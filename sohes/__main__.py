"""`python -m sohes` and the `sohes` command: `sohes.cli.main` in a process that starts and ends quickly."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from sohes.cli import main
from sohes.work.memory import keep_freed_memory
from sohes.work.surroundings import settle

# Importing torch and timm makes a million long-lived objects. Python's default, a collection every 700 new objects,
# spends 0.7 s of CPU time on scanning them.
OBJECTS_BETWEEN_COLLECTIONS = 5_000


def start() -> None:
    """Run the command that the shell names and end the process with its exit code.

    The process ends right after the atexit functions have run and the streams are flushed: tearing down an interpreter
    that has loaded torch takes 1.5 s of CPU time. So whoever opens a file has to close it. If an atexit function was
    registered before the start (by a debugger or a coverage tool), the process ends the usual way.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    # Before torch is imported: threads that spin while they wait take up to a quarter more CPU time on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    settle()
    code: int | str | None = 1  # for an exception that `main` lets through
    if not atexit._ncallbacks():  # the first to be registered is called last
        atexit.register(lambda: _end(code))
    try:
        main()
    except SystemExit as end:
        code = end.code
        raise


def _end(code: int | str | None) -> None:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # None if the shell has closed it
                stream.flush()
    except (OSError, ValueError):
        return  # the reader is gone: leave it to the interpreter, which exits with 120
    if code is None or isinstance(code, int):
        os._exit(code or 0)


if __name__ == "__main__":  # process pools import this module in their workers too
    start()
