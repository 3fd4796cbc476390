"""One command on this machine, with its log."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from sohes.errors import SohesError
from sohes.launch.group import end_group
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

    If the caller is interrupted, the command and all that it has started are ended before the interruption is raised;
    they have `grace_seconds` of the profile for it. SohesError if the command cannot be started.
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
            _end(process, profile.grace_seconds, file)
            raise
        finally:
            process.stdout.close()
    return Outcome(code, log, tuple(last))


def _end(process: subprocess.Popen[str], grace_seconds: float, log: TextIO) -> None:
    """End the command with all that it has started; what they say meanwhile goes to the log."""
    # Their output must be read to the end: a full pipe would keep them from ending.
    reader = threading.Thread(target=lambda: log.writelines(process.stdout or ()), daemon=True)
    reader.start()
    try:
        end_group(process, grace_seconds)
    finally:
        reader.join(5)
