"""Commands that are ended together with all that they have started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any

LOOK_EVERY = 0.05  # seconds


def end_group(leader: subprocess.Popen[Any], grace_seconds: float) -> None:
    """SIGTERM to every process of a group, then SIGKILL to those that are left after `grace_seconds`.

    leader: a process with a session of its own. It may end long before the others: DVC dies of SIGTERM at once, while
    the stage that it runs saves its state. Returns when all have ended. If it is interrupted, it kills at once.
    """
    try:
        _signal(leader, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while _lives(leader) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
    finally:
        _signal(leader, signal.SIGKILL)
        leader.wait()


def _lives(leader: subprocess.Popen[Any]) -> bool:
    """Whether any process of the group is left."""
    leader.poll()
    # A container's first process inherits the orphans of all others, and an ended one stays until it is waited for.
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader.pid, os.WNOHANG)[0]:
            pass
    return _signal(leader, 0)


def _signal(leader: subprocess.Popen[Any], number: int) -> bool:
    """False if there is nobody to receive it."""
    try:
        os.killpg(leader.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS permits no signal to processes that have ended
        return False
    return True
