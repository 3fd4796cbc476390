"""`sohes bench launch`: what orchestration adds to bare commands, a stage and a shard.

python -m flows.overhead [--launch local|slurm] [--shards N]

A throwaway project of stages that only note when they ran goes through the real flow: Prefect, DVC and the launcher.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from flows.command import exit_code
from sohes.errors import SohesError
from sohes.launch import LocalProfile, run_task
from sohes.project import TEMPLATE, Project

STAGES = ("backbone", "pull", "explore", "evaluate")  # the first only marks when the second could have begun
Note = tuple[str, str, float, float]  # stage, shard or "", when it began and ended, in seconds

# A stage as the flow knows them: `shards STAGE`, `STAGE --shard K`, and `STAGE` alone, which ends it.
WORK = """
import json, os, sys, time
began = time.time()
folder, count = os.path.dirname(os.path.abspath(__file__)), int(os.environ["SOHES_BENCH_SHARDS"])
if sys.argv[1] == "shards":
    print(f"0-{count - 1}")
else:
    shard = sys.argv[3] if len(sys.argv) > 3 else ""
    if not shard:
        with open(os.path.join(folder, f"{sys.argv[1]}.out"), "w") as out:
            out.write("done")
    with open(os.path.join(folder, f"times-{sys.argv[1]}-{shard}.json"), "w") as out:
        json.dump([sys.argv[1], shard, began, time.time()], out)
"""


def measure(launch: str = "", shards: int = 20) -> dict[str, str | float | None]:
    """Seconds of wall time that a stage and a shard take longer than their bare commands, by launch profile.

    launch: `local` or `slurm`; by default both, the second only where Slurm answers and else as null.
    SohesError for anything else.
    """
    if launch not in ("", "local", "slurm"):
        raise SohesError(f"no launch profile {launch!r} to measure: name local or slurm")
    if shards < 1:
        raise SohesError(f"no median of {shards} shards: measure one at least")
    result: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        root = Path(name)
        bare, launched = _shards_here(_make_project(root / "bare"), shards)
        result["bare_shard_seconds"] = bare
        if launch in ("", "local"):
            stage, _ = overheads(_flow(_make_project(root / "local"), "local", shards), bare)
            result["local_stage_overhead_seconds"] = stage
            result["local_shard_overhead_seconds"] = launched - bare
        if launch in ("", "slurm"):
            found: tuple[float | None, float | None] = (None, None)
            if launch == "slurm" or _slurm_answers():
                found = overheads(_flow(_make_project(root / "slurm"), "slurm", shards), bare)
            result["slurm_stage_overhead_seconds"], result["slurm_shard_overhead_seconds"] = found
    return {"name": "launch", **{key: None if value is None else round(value, 3) for key, value in result.items()}}


def overheads(notes: Sequence[Note], bare: float) -> tuple[float, float | None]:
    """(of a stage, of a shard) in seconds, medians over all stages but the first; None where nothing was sharded.

    A stage's is all of its time, from the end of the stage before, in which neither its shards nor its end ran. A
    shard's is what the array took, over the number of its shards, beyond the `bare` command.
    """
    ends = {stage: (began, ended) for stage, shard, began, ended in notes if not shard}
    order = sorted(ends, key=lambda stage: ends[stage])
    stages, shards = [], []
    for before, stage in itertools.pairwise(order):
        own = [(began, ended) for name, shard, began, ended in notes if name == stage and shard]
        array = max(ended for _, ended in own) - min(began for began, _ in own) if own else 0.0
        began, ended = ends[stage]
        stages.append(ended - ends[before][1] - array - (ended - began))
        if own:
            shards.append(array / len(own) - bare)
    return statistics.median(stages), statistics.median(shards) if shards else None


# ---------------------------------------------------------------- runs


def _make_project(root: Path) -> Path:
    """Stages in a chain, profiles that ask for little, and what the flow shows at its end."""
    here, there = TEMPLATE, Project(root)
    for folder in (there.launch_profiles, there.metrics("evaluate").parent):
        folder.mkdir(parents=True)
    there.metrics("evaluate").write_text("{}")
    (root / "work.py").write_text(WORK)
    shutil.copy(here.params, root)
    least = {"nodes": 1, "gpus": 0, "cpus": 1, "memory_gib": 1, "minutes": 10}
    for path in here.launch_profiles.glob("*.yaml"):
        profile = yaml.safe_load(path.read_text())
        if profile["launcher"] != "local":
            profile |= {"shards_per_job": 1, "cpu": least, "shard": least, "whole": least, "train": least}
        (there.launch_profiles / path.name).write_text(yaml.safe_dump(profile))
    stages = {
        stage: {"cmd": f"python work.py {stage}", "deps": [f"{before}.out" if before else "work.py"],
                "outs": [f"{stage}.out"]}
        for before, stage in zip(("", *STAGES), STAGES, strict=False)
    }  # fmt: skip
    there.graph.write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    _run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], root, {})
    return root


def _shards_here(root: Path, shards: int) -> tuple[float, float]:
    """Seconds of one shard's command, bare and by the launcher on this machine: medians.

    The two take turns, so that whatever else the machine does meets both.
    """
    variables = {"SOHES_BENCH_SHARDS": str(shards)}
    profile = LocalProfile(launcher="local", environment=variables, grace_seconds=1)
    bare, launched = [], []
    for shard in range(shards):
        command = [sys.executable, "work.py", "explore", "--shard", str(shard)]
        bare.append(_seconds(_run, command, root, variables))
        launched.append(_seconds(run_task, command, task="bench", root=root, profile=profile))
    return statistics.median(bare), statistics.median(launched)


def _seconds(work: Callable[..., object], *arguments: object, **options: object) -> float:
    began = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - began


def _flow(root: Path, launch: str, shards: int) -> list[Note]:
    """Send the project through the flow, on a temporary Prefect server; what its commands noted."""
    variables = {"SOHES_BENCH_SHARDS": str(shards), "SOHES_TRACKING": "off", "PREFECT_HOME": str(root / ".prefect")}
    (root / ".prefect").mkdir()
    _run([sys.executable, "-m", "flows.pipeline", "--root", str(root), "--launch", launch], Path.cwd(), variables)
    return _notes(root)


def _notes(root: Path) -> list[Note]:
    return [tuple(json.loads(path.read_text())) for path in root.glob("times-*.json")]


def _run(command: list[str], folder: Path, variables: Mapping[str, str]) -> None:
    environment = {**{key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SohesError(f"{' '.join(command[1:4])} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")


def _slurm_answers() -> bool:
    return shutil.which("sinfo") is not None and subprocess.run(["sinfo"], capture_output=True).returncode == 0


def main(arguments: list[str] | None = None) -> int:
    """Measure; the last line is a JSON object. Ends as every `sohes` command."""
    parser = argparse.ArgumentParser(prog="sohes bench launch", description="What orchestration adds to a command.")
    parser.add_argument("--launch", default="", help="local or slurm; both otherwise")
    parser.add_argument("--shards", type=int, default=20)
    options = parser.parse_args(arguments)
    return exit_code(lambda: print(json.dumps(measure(options.launch, options.shards))))


if __name__ == "__main__":
    sys.exit(main())
