"""The pipeline as a Prefect flow: the stages of dvc.yaml, in its order, one task each.

    python -m flows.pipeline [--launch PROFILE] [--root FOLDER]

DVC owns what is stale and MLflow how well it went; the flow decides when and where. Without PREFECT_API_URL it runs on
Prefect's own temporary server.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from prefect import Flow, flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff

from flows.cluster import run_elsewhere
from flows.command import add_options, exit_code, failure, may_pass, records_to
from flows.graph import command_of, environment, is_fresh, params_file, reproduce_command, stage_order, stages
from flows.server import require_server, without_tracebacks
from flows.ui import MLFLOW_URL
from sohes import tracking
from sohes.errors import SohesError, first_sentence, remark
from sohes.evaluate.figures import read_rows
from sohes.evaluate.tables import phase_markdown
from sohes.launch import LocalProfile, load_profile, run_task
from sohes.params import load_params
from sohes.pipeline import CODE
from sohes.project import Project, require_git
from sohes.work.alone import alone

PICTURES = {  # a report's kinds of pictures: the artifact's key and description
    "matched": ("picture", "The masks of each phase that recall counts, in the colours of the true ones"),
    "strongest": ("picture-all-masks", "The most confident masks of each phase, right or wrong"),
}


@task(
    name="stage",
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def run_stage(stage: str, root: Path, launch: str | None) -> State:
    """One stage through DVC, where the launch profile says; a fresh one is not run and ends as `Cached`."""
    if is_fresh(stage, root):
        return Completed(name="Cached", message=f"{stage}: nothing has changed since its last run")
    logger = get_run_logger()
    profile = load_profile(Project(root).launch_profiles, launch)
    on_line = partial(logger.info, "%s")
    if isinstance(profile, LocalProfile) or stage == CODE:
        outcome = run_task(
            reproduce_command(stage), task=stage, root=root, profile=profile, environment=environment(),
            on_line=on_line,
        )  # fmt: skip
    else:
        progress = ShardProgress(stage, logger.warning)
        outcome = run_elsewhere(
            stage, root, profile, environment=records_to(profile), on_line=on_line, on_progress=progress
        )
    if outcome.exit_code != 0:
        for line in outcome.last_lines:
            logger.error("%s", line)
        raise failure(f"stage {stage}", outcome)
    return Completed(message=f"{stage}: done")


class ShardProgress:
    """Shows in Prefect's UI how many shards of a stage are done. If that fails, the jobs go on."""

    def __init__(self, stage: str, warn: Callable[[str], None]) -> None:
        self._stage, self._warn = stage, warn
        self._artifact: UUID | None = None
        self._failed = False

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done / max(total, 1)
        try:
            if self._artifact is None:
                key, words = f"shards-{self._stage}", f"Shards of {self._stage}"
                self._artifact = cast(UUID, create_progress_artifact(percent, key=key, description=words))
            else:
                update_progress_artifact(self._artifact, percent)
        except Exception as error:  # whatever Prefect's client throws
            if not self._failed:
                self._warn(f"Prefect does not show the progress ({first_sentence(error)}); the jobs go on")
            self._failed = True


def tell_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Post one JSON object about a failed or crashed run to SOHES_NOTIFY_URL, if there is one: a chat's webhook."""
    url = os.environ.get("SOHES_NOTIFY_URL")
    if url:
        text = f"{flow.name} run {flow_run.name} ended as {state.name}: {state.message or 'no message'}"
        try:
            httpx.post(url, json={"text": text}, timeout=10).raise_for_status()
        except httpx.HTTPError as error:
            # Without the address, which is a secret: whoever has it may post.
            remark(f"the notification was not sent ({type(error).__name__})")


def only_one(root: Path) -> AbstractContextManager[None]:
    """TemporaryError if another pipeline is at work in the same folder: both would run the same stages."""
    return alone(Project(root).state("pipeline.lock"), f"a pipeline in {root}")


@flow(name="sohes", on_failure=[tell_failure], on_crashed=[tell_failure])
def pipeline(root: Path, launch: str | None = None) -> None:
    """Every stage of dvc.yaml in its order; stops at the first that fails for good."""
    root = root.resolve()
    load_profile(Project(root).launch_profiles, launch)
    with only_one(root):
        for stage in stage_order(root):
            run_stage(stage, root, launch)
        leave_artifacts(root)


@flow(name="sohes-stage", on_failure=[tell_failure], on_crashed=[tell_failure])
def one_stage(stage: str, root: Path, launch: str | None = None) -> None:
    """One stage of dvc.yaml, with its inputs as they are and the code that is installed."""
    root = root.resolve()
    order = stage_order(root)
    if stage not in order:
        raise SohesError(f"no stage {stage!r} in dvc.yaml (there is: {', '.join(order)})")
    load_profile(Project(root).launch_profiles, launch)
    with only_one(root):
        for name in dict.fromkeys((*(known for known in order if known == CODE), stage)):
            run_stage(name, root, launch)


def leave_artifacts(root: Path) -> None:
    """What a person wants to see of a finished run: the AR table, pictures, the way to MLflow's records."""
    project = Project(root)
    rows = read_rows(project)
    create_markdown_artifact(phase_markdown(rows), key="recall", description="One row per phase; AR and AP in percent")
    for kind, (key, words) in PICTURES.items():
        if project.mosaic(kind).exists():
            # Inline: the server need not reach this machine's files.
            data = base64.b64encode(project.mosaic(kind).read_bytes()).decode()
            create_image_artifact(f"data:image/jpeg;base64,{data}", key=key, description=words)
    try:
        link = tracking.pipeline_url(load_params(params_files(root)[-1]), root, local_ui=MLFLOW_URL)
    except SohesError as error:  # every stage has succeeded
        get_run_logger().warning("%s", error)
        link = None
    if link is not None:
        create_link_artifact(link, link_text="MLflow run", key="mlflow", description="Parameters, figures, checkpoints")


def params_files(root: Path) -> list[Path]:
    """The file of params that each stage reads, in the stages' order."""
    graph = stages(root)
    return [root / params_file(command_of(graph[name])) for name in stage_order(root)]


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; 0 if every stage is done or fresh, otherwise as every `sohes` command ends."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the pipeline under Prefect.")
    add_options(parser)
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    def work() -> None:
        # Before a server is started: what is wrong with the folder is known at once.
        for path in dict.fromkeys(params_files(root)):
            load_params(path)
        load_profile(Project(root).launch_profiles, options.launch)
        require_git(root)
        with only_one(root):  # the flow takes it again: others may start it too
            pass
        require_server()
        pipeline(root, options.launch)

    without_tracebacks()
    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
