"""A stage somewhere else: its shards and its end as jobs of the launcher, then what came of it written into dvc.lock.

DVC runs commands on its own machine only, so here it is told afterwards (`dvc commit`); that code, params and inputs
are still those that ran is checked first.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from flows.graph import DVC
from sohes.errors import SohesError
from sohes.launch import Kind, Outcome, Profile, Task, run_tasks
from sohes.work.pool import from_ranges

SHARDED = ("pull", "explore", "evaluate")
TRAINED = ("backbone", "instruct", "correct")


def run_elsewhere(
    stage: str,
    root: Path,
    profile: Profile,
    *,
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> Outcome:
    """Run one stage by the launcher and record it; the outcome of the first task that failed, or of the last.

    SohesError if something that the stage depends on was changed while it ran.
    """
    before = inputs_digest(stage, root)
    command = tuple(definition(stage, root)["cmd"].split())
    if command[:1] == ("python",):
        command = (sys.executable, *command[1:])
    if stage in SHARDED:
        shards = missing_shards(command, stage, root)
        on_line(f"{stage}: {len(shards)} shards to do")
        tasks = [Task(f"{index:05d}", (*command, "--shard", str(index))) for index in shards]
        outcomes = run_tasks(
            tasks, kind="shard", group=f"{stage}-shards", root=root, profile=profile, environment=environment,
            on_line=on_line, on_progress=on_progress,
        )  # fmt: skip
        if failed := [outcome for outcome in outcomes if outcome.exit_code != 0]:
            on_line(f"{stage}: {len(failed)} of {len(shards)} shards failed; the others are kept")
            return failed[0]
    kind: Kind = "train" if stage in TRAINED else "whole"
    (outcome,) = run_tasks(
        [Task(stage, command)], kind=kind, group=stage, root=root, profile=profile, environment=environment,
        on_line=on_line,
    )  # fmt: skip
    if outcome.exit_code == 0:
        if inputs_digest(stage, root) != before:
            raise SohesError(f"code, params or inputs of {stage} changed while it ran: not recorded, run it again")
        commit(stage, root)
    return outcome


def definition(stage: str, root: Path) -> dict:
    """The stage as dvc.yaml has it."""
    return yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]


def missing_shards(command: tuple[str, ...], stage: str, root: Path) -> list[int]:
    """Asked of a process of its own, which forgets what it had to read for the answer."""
    done = subprocess.run([*command[:-1], "shards", stage], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SohesError((done.stderr.strip().splitlines() or ["it said nothing"])[-1].removeprefix("sohes: "))
    return from_ranges(done.stdout)


def inputs_digest(stage: str, root: Path) -> str:
    """Changes with the stage's definition, its params, its code, and the size or time of any file of its inputs."""
    stage_definition = definition(stage, root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    found: list[object] = [stage_definition, {name: params.get(name) for name in stage_definition.get("params", [])}]
    for dep in sorted(stage_definition["deps"]):
        path = root / dep
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            if "__pycache__" in file.parts:
                continue
            if file.suffix in (".py", ".html"):
                found.append([str(file), hashlib.sha256(file.read_bytes()).hexdigest()])
            else:
                found.append([str(file), file.stat().st_size, file.stat().st_mtime_ns])
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def commit(stage: str, root: Path) -> None:
    """Write what lies there into dvc.lock and the cache, as if DVC had run the stage."""
    command = [*DVC, "commit", "--force", stage]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SohesError(f"dvc commit {stage} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
