"""A task to launch, and its outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sohes.project import Project

PORT = 29400  # where the nodes of a training meet, as torchrun has it
LAST_LINES = 100  # torchrun says some 80 after the sentence of the process that failed
Kind = Literal["cpu", "shard", "whole", "train"]  # which of a profile's resources a task gets


@dataclass(frozen=True)
class Task:
    """One shell command, under this process's Python or the one of wherever it runs.

    name: a word of letters, digits and dashes, unique in its group.
    """

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How a task ended. exit_code: negative for a signal. last_lines: the last of its output, oldest first."""

    exit_code: int
    log: Path
    last_lines: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """What holds for all tasks that are launched together; see `sohes.launch.run_tasks`."""

    kind: Kind
    group: str
    root: Path
    environment: Mapping[str, str]
    on_line: Callable[[str], None]
    on_progress: Callable[[int, int], None]
    record: Callable[[], None]
    digest: str  # of what the tasks read, and of the profile that they are asked for with

    def record_if_done(self, outcomes: Iterable[Outcome]) -> None:
        """Call `record` if every task has succeeded."""
        if all(outcome.exit_code == 0 for outcome in outcomes):
            self.record()


def log_file(root: Path, name: str) -> Path:
    """Where the log of a task is kept that has no other place for it."""
    return Project(root).state("logs") / f"{name}.log"


def last_lines(text: str) -> tuple[str, ...]:
    """The end of a log."""
    return tuple(line.rstrip() for line in text.splitlines()[-LAST_LINES:])


def pause(elapsed: float, longest: float) -> float:
    """Seconds until the next look at jobs submitted `elapsed` seconds ago: a tenth of that, at most `longest`."""
    return min(longest, 0.2 + elapsed / 10)


def with_python(command: tuple[str, ...], python: str) -> tuple[str, ...]:
    """The command under another Python, if it is one of Python's: `python ...`, or this process's own interpreter."""
    is_python = command[0] == sys.executable or Path(command[0]).name == "python"
    return (python, *command[1:]) if is_python else command


def torchrun(
    command: tuple[str, ...], *, nodes: int, processes: int, head: str, run: str, port: int = PORT
) -> tuple[str, ...]:
    """The command that starts the processes of `python -m MODULE ...` that train together, the same on every node.

    processes: on each node. head: the name or address of one of the nodes. run: a name that no other run has.
    """
    if command[1:2] != ("-m",):
        raise ValueError(f"only `python -m MODULE ...` can run under torchrun (got {command})")
    return (
        command[0], "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={head}:{port}",
        f"--rdzv-id={run}", *command[1:],
    )  # fmt: skip
