"""What is launched, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LAST_LINES = 20
Kind = Literal["shard", "whole", "train"]  # which of a profile's resources a task gets


@dataclass(frozen=True)
class Task:
    """One shell command. `name`: a word of letters, digits and dashes, unique in its group."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """How a task ended. exit_code: negative for a signal. last_lines: what it said at the end, oldest first."""

    exit_code: int
    log: Path
    last_lines: tuple[str, ...]


def last_lines(text: str) -> tuple[str, ...]:
    """The end of a log."""
    return tuple(line.rstrip() for line in text.splitlines()[-LAST_LINES:])


def pause(elapsed: float, longest: float) -> float:
    """Seconds until the next look at jobs that have been out for `elapsed`: a tenth of that, `longest` at most."""
    return min(longest, 0.2 + elapsed / 10)


def torchrun(command: tuple[str, ...], *, nodes: int, processes: int, head: str, port: int, run: str) -> list[str]:
    """`python -m MODULE ...` as `nodes` x `processes` of it that train together; the same command on every node.

    head: the name or address of one of the nodes. run: what this run is called, different from any other's.
    """
    if command[1:2] != ("-m",):
        raise ValueError(f"only `python -m MODULE ...` can be trained with (got {command})")
    return [
        command[0], "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d", f"--rdzv-endpoint={head}:{port}", f"--rdzv-id={run}", *command[1:],
    ]  # fmt: skip
