"""The pipeline as a Prefect flow: the stages of dvc.yaml, in its order, one task each.

    python -m flows.pipeline [--launch PROFILE] [--root FOLDER]

DVC owns what is stale and MLflow how well it went; the flow decides when and where. Without PREFECT_API_URL it runs on
Prefect's own temporary server.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from filelock import FileLock, Timeout
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
from flows.graph import is_fresh, reproduce_command, stage_order
from flows.ui import MLFLOW_URL
from sohes import tracking
from sohes.errors import SohesError
from sohes.evaluate.tables import phase_markdown
from sohes.launch import LocalProfile, load_profile, run_task
from sohes.params import load_params


@task(
    name="stage",
    task_run_name="{stage}",
    retries=2,
    retry_delay_seconds=exponential_backoff(10),
    retry_jitter_factor=0.5,
    cache_policy=NO_CACHE,
)
def run_stage(stage: str, root: Path, launch: str | None) -> State:
    """One stage through DVC, where the launch profile says; a fresh one is not run and ends as `Cached`."""
    if is_fresh(stage, root):
        return Completed(name="Cached", message=f"{stage}: nothing has changed since its last run")
    logger = get_run_logger()
    profile = load_profile(root / "infra/launch", launch)
    if isinstance(profile, LocalProfile):
        outcome = run_task(
            reproduce_command(stage),
            task=stage,
            root=root,
            profile=profile,
            # dvc.yaml's commands begin with `python`: let it be this one, whether or not its environment is activated.
            environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            on_line=lambda line: logger.info("%s", line),
        )
    else:
        progress = ShardProgress(stage)
        outcome = run_elsewhere(
            stage, root, profile, environment={}, on_line=lambda line: logger.info("%s", line), on_progress=progress
        )
    if outcome.exit_code != 0:
        for line in outcome.last_lines:
            logger.error("%s", line)
        raise SohesError(f"stage {stage} failed: {_why(outcome.last_lines)} (log: {outcome.log})")
    return Completed(message=f"{stage}: done")


class ShardProgress:
    """Shows in Prefect's UI how many shards of a stage are done."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done / max(total, 1)
        if self._artifact is None:
            key, words = f"shards-{self._stage}", f"Shards of {self._stage}"
            self._artifact = cast(UUID, create_progress_artifact(percent, key=key, description=words))
        else:
            update_progress_artifact(self._artifact, percent)


def _why(last_lines: tuple[str, ...]) -> str:
    """The stage's own sentence if it has one, else the last thing that was said before DVC's summary."""
    own = [line.removeprefix("sohes: ") for line in last_lines if line.startswith("sohes: ")]
    said = [line for line in last_lines if line.strip() and not line.startswith("ERROR: failed to reproduce")]
    return (own or said or ["it said nothing"])[-1]


def tell_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Post one JSON object about a failed or crashed run to SOHES_NOTIFY_URL, if there is one: a chat's webhook."""
    url = os.environ.get("SOHES_NOTIFY_URL")
    if url:
        text = f"{flow.name} run {flow_run.name} ended as {state.name}: {state.message or 'no message'}"
        try:
            httpx.post(url, json={"text": text}, timeout=10).raise_for_status()
        except httpx.HTTPError as error:
            # Without the address, which is a secret: whoever has it may post.
            print(f"sohes: the notification was not sent ({type(error).__name__})", file=sys.stderr)


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """SohesError if another pipeline is at work in the same folder: both would run the same stages."""
    lock = FileLock(root / ".sohes/pipeline.lock", timeout=0)
    lock_folder = root / ".sohes"
    lock_folder.mkdir(exist_ok=True)
    try:
        with lock:  # the system's own lock: it is gone when its process is, however that ended
            yield
    except Timeout:
        raise SohesError(f"another pipeline is running in {root}: wait for it or end it") from None


@flow(name="sohes", on_failure=[tell_failure], on_crashed=[tell_failure])
def pipeline(root: Path, launch: str | None = None) -> None:
    """Every stage of dvc.yaml in its order; stops at the first that fails, after its retry."""
    root = root.resolve()
    load_profile(root / "infra/launch", launch)
    with only_one(root):
        for stage in stage_order(root):
            run_stage(stage, root, launch)
        leave_artifacts(root)


@flow(name="sohes-stage", on_failure=[tell_failure], on_crashed=[tell_failure])
def one_stage(stage: str, root: Path, launch: str | None = None) -> None:
    """One stage of dvc.yaml, with its inputs as they are."""
    root = root.resolve()
    if stage not in stage_order(root):
        raise SohesError(f"no stage {stage!r} in dvc.yaml (there is: {', '.join(stage_order(root))})")
    load_profile(root / "infra/launch", launch)
    with only_one(root):
        run_stage(stage, root, launch)


def leave_artifacts(root: Path) -> None:
    """What a person wants to see of a finished run: the AR table, a picture, the way to MLflow's records."""
    rows = json.loads((root / "metrics/evaluate.json").read_text())
    create_markdown_artifact(phase_markdown(rows), key="recall", description="One row per phase; AR and AP in percent")
    picture = root / "reports/example.jpg"
    if picture.exists():
        # Inline: the server need not reach this machine's files.
        data = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/jpeg;base64,{data}", key="picture", description=f"From {picture.parent}")
    link = tracking.pipeline_url(load_params(root / "params.yaml"), root, local_ui=MLFLOW_URL)
    if link is not None:
        create_link_artifact(link, link_text="MLflow run", key="mlflow", description="Parameters, figures, checkpoints")


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; 0 if every stage is done or fresh, 1 after one sentence on stderr, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run the pipeline under Prefect.")
    parser.add_argument("--launch", help="a profile of infra/launch/; SOHES_LAUNCH otherwise")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        # Before a server is started: what is wrong with the folder is known at once.
        stage_order(root)
        load_params(root / "params.yaml")
        load_profile(root / "infra/launch", options.launch)
        pipeline(root, options.launch)
    except SohesError as error:
        print(f"sohes: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sohes: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
