"""One command on this machine, with its log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sohes.errors import SohesError
from sohes.launch.profile import Profile
from sohes.launch.task import LAST_LINES, Outcome, log_file


def run_task(
    command: Sequence[str],
    *,
    task: str,
    root: Path,
    profile: Profile,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run one command in `root` and wait for it; both its streams go to `.sohes/logs/<task>.log` and to `on_line`.

    If the caller is interrupted, the command and all its children are ended before the interruption is raised.
    SohesError if the command cannot be started.
    """
    log = log_file(root, task)
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **profile.environment, **(environment or {}), "PYTHONUNBUFFERED": "1"}
    last: deque[str] = deque(maxlen=LAST_LINES)
    with log.open("a", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                list(command), cwd=root, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise SohesError(f"cannot start {command[0]} for {task}: {error.strerror}") from None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()  # for whoever follows the file
                last.append(line.rstrip())
                on_line(line.rstrip())
            code = process.wait()
        except BaseException:
            _end(process, profile.grace_seconds)
            raise
        finally:
            process.stdout.close()
    return Outcome(code, log, tuple(last))


def _end(process: subprocess.Popen[str], grace_seconds: float) -> None:
    """Ask the command's whole group to end, then end it."""
    # Its output must be read to the end: a full pipe would keep it from ending.
    reader = threading.Thread(target=lambda: [None for _ in process.stdout or ()], daemon=True)
    reader.start()
    _signal_group(process, signal.SIGTERM)
    try:
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process, signal.SIGKILL)  # also its children, if the command itself has ended
        process.wait()
        reader.join(5)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
