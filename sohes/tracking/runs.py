"""The runs of a pipeline in MLflow: one for the whole, and one nested in it for every stage."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sohes.errors import is_installed
from sohes.params import TRAINED_HERE, Params
from sohes.pipeline import STAGES
from sohes.project import Project
from sohes.tracking.makers import name_makers, page
from sohes.tracking.provenance import dvc_tags, git_tags
from sohes.tracking.recorder import FileRecorder, MlflowRecorder, Recorder, flatten, log_params, set_tags
from sohes.tracking.store import (
    experiment_id,
    first_line,
    has_store,
    is_on,
    locked,
    store_errors,
    tracking_client,
    tracking_uri,
    without_secrets,
)
from sohes.work.alone import is_first_process
from sohes.work.cost import sign

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "sohes"
# Sections of params.yaml by what is recorded alike and is no stage of the pipeline.
BESIDE: dict[str, tuple[str, ...]] = {"downstream": ("model", "downstream")}


@contextmanager
def stage_run(stage: str, params: Params, root: Path, resume_id: str | None = None) -> Iterator[Recorder]:
    """A stage's run, nested in its pipeline's; FINISHED, FAILED or KILLED when the block ends, and the parent with it.

    The parent is the run tagged `sohes.pipeline` with SOHES_PIPELINE_RUN or, without it, with a digest of the params.
    resume_id: continue that run, if the store still has it for this stage with the same parameters.
    Processes of a distributed training record nothing, except the first. SohesError if the store cannot be reached.
    Without MLflow the figures go to `metrics/curves/<stage>.jsonl`.
    """
    if not (is_on() and is_first_process()):
        yield Recorder()
        return
    if not is_installed("mlflow"):
        curves = Project(root).curves(stage)
        print(f"{stage}: MLflow is not installed, so figures go to {curves} only", file=sys.stderr)
        yield FileRecorder(curves, resumed=resume_id == FileRecorder.run_id)
        return
    store, parent_id, run_id = _start(stage, params, root, resume_id)
    recorder = MlflowRecorder(store.client, run_id, parent_id)
    status = "FAILED"
    try:
        yield recorder
        status = "FINISHED"
        sign(run_id)
    except BaseException as error:
        status = "KILLED" if _interrupted(error) else "FAILED"
        recorder.tags({"sohes.error": first_line(error)})
        raise
    finally:
        for ended in (run_id, parent_id):
            recorder.send(partial(store.client.set_terminated, ended, status))
        if recorder.lost:
            print(f"warning: MLflow missed {recorder.lost} records of stage {stage}", file=sys.stderr)


def pipeline_url(params: Params, root: Path, *, local_ui: str) -> str | None:
    """Where a browser finds this pipeline run; None if nothing was recorded.

    local_ui: address of the UI that `make ui` starts, which shows the local database.
    """
    if not (is_on() and is_installed("mlflow") and has_store(root)):
        return None
    with store_errors(tracking_uri(root), reading=True), locked(root):
        store = _Store.open(root)
        parent = store.find_pipeline(pipeline_id(params))
    if parent is None:
        return None
    uri = tracking_uri(root)
    ui = without_secrets(uri).rstrip("/") if uri.startswith("http") else local_ui
    return f"{ui}/{page(store.experiment_id, parent.info.run_id)}"


def experiment_page(root: Path) -> str:
    """The page of all pipelines' runs, relative to the UI's address; empty if there is none yet."""
    if not has_store(root):
        return ""
    with store_errors(tracking_uri(root), reading=True):
        found = tracking_client(root).get_experiment_by_name(EXPERIMENT)
    return page(found.experiment_id) if found is not None else ""


def pipeline_id(params: Params) -> str:
    """The name by which the stages of one pipeline run find each other."""
    digest = hashlib.sha256(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    return os.environ.get("SOHES_PIPELINE_RUN") or f"params-{digest[:12]}"


def title(params: Params) -> str:
    """What most tells one pipeline from another: where its images and its ViT come from, and the seed."""
    named = params.backbone.pretrained
    vit = f"{params.backbone.architecture}, {named}" if named in TRAINED_HERE else Path(named).name
    return f"{params.pull.source}, {vit}, seed {params.seed}"


# ---------------------------------------------------------------- the runs of one pipeline


@dataclass(frozen=True)
class _Store:
    client: MlflowClient
    experiment_id: str

    @classmethod
    def open(cls, root: Path) -> _Store:
        client = tracking_client(root)
        return cls(client, experiment_id(client, EXPERIMENT, root))

    def find_pipeline(self, name: str) -> Run | None:
        tag = name.replace("'", "")
        found = self.client.search_runs(
            [self.experiment_id],
            f"tags.`sohes.pipeline` = '{tag}' and tags.`sohes.kind` = 'pipeline'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return found[0] if found else None

    def children(self, parent_id: str, stage: str) -> list[Run]:
        condition = f"tags.`mlflow.parentRunId` = '{parent_id}' and tags.`sohes.stage` = '{stage}'"
        return list(self.client.search_runs([self.experiment_id], condition))


def _start(stage: str, params: Params, root: Path, resume_id: str | None) -> tuple[_Store, str, str]:
    """The store, the parent's id and the id of the stage's run, new or continued; both runs are RUNNING."""
    values = _stage_params(stage, params)
    # Two stages may start at the same moment: one makes the database and the parent, the other finds them.
    with store_errors(tracking_uri(root)), locked(root):
        store = _Store.open(root)
        parent_id = _pipeline_run(store, params, root)
        _end_dead_runs(store, parent_id, stage)
        name_makers(store.client, parent_id, stage, root)
        run_id = _resumable(store, resume_id, stage, values)
        if run_id is None:
            tags = {"sohes.kind": "stage", "sohes.stage": stage, "mlflow.parentRunId": parent_id}
            run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=stage).info.run_id
            log_params(store.client, run_id, values)
        set_tags(store.client, run_id, {**git_tags(root), **dvc_tags(stage, root), "sohes.process": _process()})
        for started in (parent_id, run_id):
            store.client.update_run(started, status="RUNNING")
    return store, parent_id, run_id


def _pipeline_run(store: _Store, params: Params, root: Path) -> str:
    """The parent's id; it is made by the first stage that asks for it."""
    name = pipeline_id(params)
    found = store.find_pipeline(name)
    if found is not None:
        return found.info.run_id
    tags = {"sohes.kind": "pipeline", "sohes.pipeline": name.replace("'", ""), **git_tags(root)}
    titled = f"{name}: {title(params)}"  # what differs first: the UI cuts long names
    run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=titled).info.run_id
    log_params(store.client, run_id, flatten(params.model_dump(mode="json")))
    return run_id


def _resumable(store: _Store, resume_id: str | None, stage: str, values: dict[str, str]) -> str | None:
    """resume_id, unless its run is gone, is another stage's, or was made with other parameters."""
    from mlflow.exceptions import MlflowException

    if resume_id is None:
        return None
    try:
        run = store.client.get_run(resume_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    same = run.data.tags.get("sohes.stage") == stage and values.items() <= run.data.params.items()
    return resume_id if same and run.info.lifecycle_stage == "active" else None


def _end_dead_runs(store: _Store, parent_id: str, stage: str) -> None:
    """A stage killed without warning left its run RUNNING: end it, if its process was one of this machine's."""
    for run in store.children(parent_id, stage):
        host, _, pid = run.data.tags.get("sohes.process", "").rpartition(":")
        if run.info.status == "RUNNING" and host == socket.gethostname() and not _alive(int(pid)):
            store.client.set_terminated(run.info.run_id, "KILLED")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, as somebody else's
        return True
    return True


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _stage_params(stage: str, params: Params) -> dict[str, str]:
    sections = {name: known.sections for name, known in STAGES.items()} | BESIDE
    if stage not in sections:
        raise ValueError(f"a stage must be one of {', '.join(sections)} (got {stage!r})")
    return flatten(params.model_dump(mode="json", include={"seed", *sections[stage]}))


def _interrupted(error: BaseException) -> bool:
    """Ctrl-C or a signal, also where a library has turned it into a sentence."""
    links = [error, error.__context__, error.__cause__]
    return any(isinstance(link, KeyboardInterrupt | SystemExit) for link in links)
