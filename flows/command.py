"""What the flows' commands share: their options, how they end, and what a failed task means."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from sohes.errors import LOST, SohesError, TemporaryError, chain, exit_code_of, print_any_name, sentence_of
from sohes.launch import Outcome, Profile
from sohes.tracking.store import RECORDING, without_secrets
from sohes.work.ended import clean_up_when_ended

if TYPE_CHECKING:
    from prefect import State, Task
    from prefect.client.schemas.objects import TaskRun

SAYS = "sohes: "  # before the one sentence of every command that fails
WRONG_USAGE = 2
_NAMED = re.compile(r"exited with (-?\d+)$|^  exitcode +: (-?\d+) ")  # by DVC; by torchrun


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--launch` and `--root`."""
    parser.add_argument("--launch", help="a profile of infra/launch/; SOHES_LAUNCH otherwise")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")


def exit_code(work: Callable[[], None]) -> int:
    """Do the work and return the exit code: 0, or the error's own after one sentence on stderr; 130 after Ctrl-C.

    SystemExit after SIGTERM or SIGHUP: what was started is ended before this process.
    """
    clean_up_when_ended()
    print_any_name()
    try:
        work()
    except KeyboardInterrupt:
        print(f"{SAYS}interrupted", file=sys.stderr)
        return 130
    except Exception as raised:
        links = list(chain(raised))
        if ended := [link for link in links if isinstance(link, SystemExit)]:  # whatever failed on the way out
            raise ended[0] from None
        error: Exception = raised
        if sentence_of(raised) is None and any(isinstance(link, httpx.TransportError) for link in links):
            error = TemporaryError(f"Prefect's server does not answer any more ({raised}): run the same command again")
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("SOHES_DEBUG"):
            raise
        print(f"{SAYS}{sentence}", file=sys.stderr)
        return exit_code_of(error)
    return 0


def failure(what: str, outcome: Outcome) -> SohesError:
    """The error of a task that failed, in its own words; a TemporaryError unless only the user can fix it.

    Only the user can fix wrong usage, and what a `sohes` command ended for with a sentence and exit code 1.
    """
    words = f"{what} failed: {why(outcome.last_lines)} (log: {outcome.log})"
    return error_of(outcome.exit_code, outcome.last_lines)(words)


def error_of(exit_code: int, last_lines: tuple[str, ...]) -> type[SohesError]:
    """SohesError for how a command ended if only the user can fix it, else TemporaryError."""
    code, spoke = _own_exit_code(exit_code, last_lines), any(line.startswith(SAYS) for line in last_lines)
    return SohesError if code == WRONG_USAGE or (code == 1 and spoke) else TemporaryError


def records_to(profile: Profile) -> dict[str, str]:
    """The variables that say where runs are recorded, for jobs elsewhere; what the profile says itself is left out.

    So is an address with a password, which whoever reads the jobs would see: that belongs in one of `secrets`.
    """
    here = {name: os.environ[name] for name in RECORDING if name in os.environ and name not in profile.environment}
    return {name: value for name, value in here.items() if without_secrets(value) == value}


def may_pass(task: Task, run: TaskRun, state: State) -> bool:
    """Whether Prefect may try a task again: not after an error that only the user can fix."""
    error = state.data
    return not isinstance(error, SohesError) or isinstance(error, TemporaryError)


def why(last_lines: tuple[str, ...]) -> str:
    """The command's own sentence if it has one, else the last thing that was said before DVC's summary, else that.

    Of processes that train together, the sentence of the one that failed counts, not of those that missed it.
    """
    own = [line.removeprefix(SAYS) for line in last_lines if line.startswith(SAYS)]
    own.sort(key=lambda line: LOST not in line)
    words = [line for line in last_lines if line.strip(" =-")]
    said = [line for line in words if not line.startswith("ERROR: failed to reproduce")]
    return (own or said or words or ["it said nothing"])[-1].strip()


def _own_exit_code(exit_code: int, last_lines: tuple[str, ...]) -> int:
    """Of the command, also where DVC or torchrun has run it and ends with a code of its own.

    torchrun names first those that failed later, and at the end the one that failed first.
    """
    named = [match for line in last_lines if (match := _NAMED.search(line))]
    return int(named[-1][1] or named[-1][2]) if named else exit_code
