"""A stage somewhere else: its shards and its end as jobs of the launcher, then the result written into dvc.lock.

DVC runs commands on its own machine only, so the result is committed afterwards (`dvc commit`), if code, params and
inputs are still those that the stage ran with.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.command import error_of, why
from flows.graph import command_of, commit, outputs, params_file, sections_of, stages
from sohes.errors import SohesError, TemporaryError
from sohes.launch import Kind, LocalProfile, Outcome, Profile, Task, run_tasks
from sohes.launch.task import last_lines, with_python
from sohes.pipeline import STAGES
from sohes.project import read_mapping
from sohes.work.files import digest_file
from sohes.work.identity import identity
from sohes.work.origin import stamps
from sohes.work.pool import as_ranges, from_ranges, jobs_of


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

    TemporaryError if something that the stage depends on was changed while it ran. SohesError if DVC does not record
    it: the next call only does that.
    """
    before = inputs_digest(stage, root)
    command = with_python(command_of(stages(root)[stage]), sys.executable)
    if stage in STAGES and STAGES[stage].splits:
        shards = missing_shards(command, stage, root, {**profile.environment, **environment})
        on_line(f"{stage}: {len(shards)} shards to do")
        per_job = 1 if isinstance(profile, LocalProfile) else profile.shards_per_job
        tasks = [Task(f"{k.start:05d}", (*command, "--shard", as_ranges(k))) for k in jobs_of(shards, per_job)]
        outcomes = run_tasks(
            tasks, kind=kind_of(stage, shard=True), group=f"{stage}-shards", root=root, profile=profile,
            environment=environment, on_line=on_line, on_progress=on_progress, inputs=before,
        )  # fmt: skip
        if failed := [outcome for outcome in outcomes if outcome.exit_code != 0]:
            what = "shards" if per_job == 1 else f"jobs of {per_job} shards"
            on_line(f"{stage}: {len(failed)} of {len(tasks)} {what} failed; the others are kept")
            return failed[0]
    trouble: list[SohesError] = []

    def record() -> None:
        """Raises what a job that has ended well need not run again for, and keeps all else as trouble."""
        if inputs_digest(stage, root) != before:
            words = f"code, params or inputs of {stage} changed while it ran: not recorded, run it again"
            trouble.append(TemporaryError(words))
            return
        try:
            commit(stage, root)
        except SohesError as error:
            if all((root / out).exists() for out in outputs(stages(root)[stage])):
                raise
            trouble.append(error)

    (outcome,) = run_tasks(
        [Task(stage, command)], kind=kind_of(stage), group=stage, root=root, profile=profile, environment=environment,
        on_line=on_line, record=record, inputs=before,
    )  # fmt: skip
    if trouble:
        raise trouble[0]
    return outcome


def kind_of(stage: str, *, shard: bool = False) -> Kind:
    """Which resources of the profile a stage gets, or a job of its shards; one that we do not know may want a GPU."""
    known = STAGES.get(stage)
    if known is not None and not known.gpu:
        return "cpu"
    return "shard" if shard else "train" if known is not None and known.trains else "whole"


def missing_shards(command: tuple[str, ...], stage: str, root: Path, environment: Mapping[str, str]) -> list[int]:
    """The shards that are not done, by `sohes shards STAGE` with the options of the stage's own command.

    In a process of its own: what it reads for the answer need not stay in this one's memory. environment: what the
    jobs get besides this process's own, such as credentials: the question, too, may list a bucket. TemporaryError if
    the same question may be answered later.
    """
    if stage not in command:
        raise SohesError(f"the command of {stage} in dvc.yaml does not name it: write `python -m sohes {stage}`")
    place = command.index(stage)
    question = [*command[:place], "shards", *command[place:]]
    done = subprocess.run(
        question, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = last_lines(done.stderr)
        raise error_of(done.returncode, said)(why(said))
    return from_ranges(done.stdout)


def inputs_digest(stage: str, root: Path) -> str:
    """Changes with the stage's definition, its params, its code, and the size or time of any file of its inputs."""
    definition = stages(root)[stage]
    params = read_mapping(root / params_file(command_of(definition)))
    found: list[object] = [definition, {name: params.get(name) for name in sections_of(definition)}]
    for file, stamp in sorted(stamps(root / dep for dep in definition["deps"]).items()):
        found.append([str(file), digest_file(file) if stamp and file.suffix in (".py", ".html") else stamp])
    return identity(found)
