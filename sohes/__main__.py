"""`python -m sohes` and the `sohes` command: `sohes.cli.main` in a process that starts and ends quickly."""

from __future__ import annotations

import atexit
import gc
import os
import sys

from sohes.cli import main

# Importing torch and timm makes a million objects that stay. Looking through them again for every 700 new ones, as the
# interpreter does by itself, takes 0.7 s of CPU time in all.
OBJECTS_BETWEEN_COLLECTIONS = 5_000


def start() -> None:
    """Run the command that the shell names; ends the process with its exit code.

    What has been registered for the end is done, the streams are written, and then the process ends at once: to take
    apart an interpreter that has loaded torch takes 1.5 s of CPU time. Files have to be closed by who opened them.
    Where somebody waits for the end from before the start (a debugger, a measurement of coverage), it comes as usual.
    """
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    code: int | str | None = 1  # of an error that `main` lets through
    if not atexit._ncallbacks():  # the first to be registered is the last to be called, and ends the process
        atexit.register(lambda: _end(code))
    try:
        main()
    except SystemExit as end:
        code = end.code
        raise


def _end(code: int | str | None) -> None:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # as it is when the shell has closed it
                stream.flush()
    except (OSError, ValueError):
        return  # nobody reads any more: the interpreter has its own way to say so
    if code is None or isinstance(code, int):
        os._exit(code or 0)


if __name__ == "__main__":  # a process pool's workers import this module too
    start()
