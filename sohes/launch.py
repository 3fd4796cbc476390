"""Where a command runs: a profile from `infra/launch/`, chosen by SOHES_LAUNCH.

A task is one shell command, so whatever launches it can be replaced by a person who pastes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sohes.errors import SohesError

LAST_LINES = 20


class Profile(BaseModel):
    """One file of `infra/launch/`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    launcher: Literal["local"]
    environment: dict[str, str]  # added to that of the command
    grace_seconds: Annotated[float, Field(ge=0)]  # from SIGTERM to SIGKILL when a task is interrupted


@dataclass(frozen=True)
class Outcome:
    """How a task ended. exit_code: negative for a signal. last_lines: what it said at the end, oldest first."""

    exit_code: int
    log: Path
    last_lines: tuple[str, ...]


def load_profile(folder: Path, name: str | None = None) -> Profile:
    """Read `<folder>/<name>.yaml`; without a name SOHES_LAUNCH decides, else `local`.

    SohesError names the profiles that exist, or the key that is wrong.
    """
    name = name or os.environ.get("SOHES_LAUNCH") or "local"
    profiles = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if name not in profiles:
        existing = ", ".join(profiles) or "none"
        raise SohesError(
            f"no launch profile {name!r} in {folder} (there is: {existing}): mend SOHES_LAUNCH or --launch"
        )
    try:
        return Profile.model_validate(yaml.safe_load(profiles[name].read_text()))
    except yaml.YAMLError as error:
        raise SohesError(f"{profiles[name]} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())
        raise SohesError(f"{profiles[name]}: {wrong}") from None


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

    If the caller is interrupted, the command and all that it started are ended before the interruption goes on.
    SohesError if the command cannot be started.
    """
    log = root / ".sohes/logs" / f"{task}.log"
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
    # Somebody must read while it says goodbye: a full pipe would keep it from ending.
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
