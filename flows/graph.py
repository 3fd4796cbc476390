"""What the flow knows about the pipeline, all of it read from dvc.yaml, which owns the graph."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from sohes.errors import SohesError
from sohes.project import Project, read_mapping

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")  # somebody's `dvc push` is no reason to fail
OPTION = "--params"


def stages(root: Path) -> dict[str, Any]:
    """The stages as dvc.yaml has them. SohesError if there is no such file, or no stage in it."""
    path = Project(root).graph
    if not path.exists():
        raise SohesError(f"no dvc.yaml in {root}: run in the project's folder or name it with --root")
    found = read_mapping(path).get("stages") or {}
    if not found:
        raise SohesError(f"{path} has no stages: restore it from the repository")
    return found


def stage_order(root: Path) -> list[str]:
    """The names of the stages, every one after those whose outputs it reads; ties in the file's order."""
    graph = stages(root)
    producers = {out: name for name, stage in graph.items() for out in outputs(stage)}
    needs = {
        name: [
            producer for out, producer in producers.items() if any(_touches(dep, out) for dep in stage.get("deps", []))
        ]
        for name, stage in graph.items()
    }
    return list(TopologicalSorter(needs).static_order())


def outputs(stage: Mapping[str, Any]) -> list[str]:
    """Paths of outs, metrics and plots."""
    return [path_of(entry) for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]


def path_of(entry: str | Mapping[str, Any]) -> str:
    """An output's path; one with options is a mapping from its path."""
    return entry if isinstance(entry, str) else next(iter(entry))


def _touches(dependency: str, output: str) -> bool:
    """The same path, or one inside the other."""
    a, b = PurePosixPath(dependency), PurePosixPath(output)
    return a.is_relative_to(b) or b.is_relative_to(a)


# ---------------------------------------------------------------- a stage's command and params


def command_of(stage: Mapping[str, Any]) -> tuple[str, ...]:
    """The stage's command as words; a list is run in its order until one fails, as DVC does."""
    lines = stage["cmd"]
    return tuple(shlex.split(lines if isinstance(lines, str) else " && ".join(lines)))


def params_file(command: tuple[str, ...]) -> Path:
    """The file that the command reads its params from, relative to the project's folder."""
    for word, following in zip(command, (*command[1:], ""), strict=True):
        if word == OPTION:
            return Path(following)
        if word.startswith(f"{OPTION}="):
            return Path(word.partition("=")[2])
    return Project(Path()).params


def without_params_file(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command as it reads the folder's own params.yaml."""
    pairs = zip(("", *command), command, strict=False)
    return tuple(word for before, word in pairs if OPTION not in (before, word, word.partition("=")[0]))


def sections_of(stage: Mapping[str, Any]) -> list[str]:
    """The sections of the params that DVC watches for the stage, whichever file it watches them in."""
    watched = ([entry] if isinstance(entry, str) else chain(*entry.values()) for entry in stage.get("params", []))
    return list(dict.fromkeys(key.partition(".")[0] for key in chain(*watched)))


# ---------------------------------------------------------------- DVC


def environment() -> dict[str, str]:
    """What DVC needs: dvc.yaml's commands begin with `python`, which is this one, even if it is not activated."""
    return {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def is_fresh(stage: str, root: Path) -> bool:
    """DVC finds nothing changed in the stage: neither code, params, inputs nor outputs."""
    return json.loads(_dvc("status", "--json", stage, root=root)) == {}


def reproduce_command(stage: str) -> list[str]:
    """The command that runs one stage and records it in dvc.lock."""
    return [*DVC, "repro", "--single-item", stage]


def commit(stage: str, root: Path) -> None:
    """Write what lies there into dvc.lock and the cache, as if DVC had run the stage.

    SohesError names the command that does so, for whoever has removed what was in its way.
    """
    try:
        _dvc("commit", "--force", stage, root=root)
    except SohesError as error:
        raise SohesError(f"{error}: remove the cause, then `dvc commit --force {stage}`") from None


def _dvc(verb: str, *arguments: str, root: Path) -> str:
    """What a command of DVC prints. SohesError with the first line of its complaint."""
    command = [*DVC, verb, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise SohesError(f"dvc {verb} {arguments[-1]} failed: {lines[0]}")
    return done.stdout
