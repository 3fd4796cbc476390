"""What the flow knows about the pipeline: all of it read from dvc.yaml, which owns the graph."""

from __future__ import annotations

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath

import yaml

from sohes.errors import SohesError

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")  # somebody's `dvc push` is no reason to fail


def stage_order(root: Path) -> list[str]:
    """The stages of dvc.yaml, every one after those whose outputs it reads; ties in the file's order.

    SohesError if there is no such file, or no stage in it.
    """
    path = root / "dvc.yaml"
    if not path.exists():
        raise SohesError(f"no dvc.yaml in {root}: run in the project's folder or name it with --root")
    stages = (yaml.safe_load(path.read_text()) or {}).get("stages") or {}
    if not stages:
        raise SohesError(f"{path} has no stages: restore it from the repository")
    producers = {out: name for name, stage in stages.items() for out in outputs(stage)}
    graph = {
        name: [producer for out, producer in producers.items() if any(_touches(dep, out) for dep in stage["deps"])]
        for name, stage in stages.items()
    }
    return list(TopologicalSorter(graph).static_order())


def outputs(stage: dict) -> list[str]:
    """Paths of outs, metrics and plots; an entry with options is a mapping of one path."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _touches(dependency: str, output: str) -> bool:
    """The same path, or one inside the other."""
    a, b = PurePosixPath(dependency), PurePosixPath(output)
    return a.is_relative_to(b) or b.is_relative_to(a)


def is_fresh(stage: str, root: Path) -> bool:
    """DVC finds nothing changed in the stage: neither code, params, inputs nor outputs."""
    done = subprocess.run(
        [*DVC, "status", "--json", stage], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise SohesError(f"dvc status {stage} failed: {lines[0]}")
    return json.loads(done.stdout) == {}


def reproduce_command(stage: str) -> list[str]:
    """The command that runs one stage and records it in dvc.lock."""
    return [*DVC, "repro", "--single-item", stage]
