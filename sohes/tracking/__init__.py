"""MLflow, or nothing: one parent run per pipeline run, one child per stage. Only this package imports mlflow.

A local sqlite database in the project's folder unless MLFLOW_TRACKING_URI names a server; SOHES_TRACKING=off records
nothing at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

from sohes.errors import SohesError
from sohes.params import Params, without_secrets

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "sohes"
# The sections of params.yaml that a stage reads, besides the seed: the same as its `params` in dvc.yaml.
SECTIONS: dict[str, tuple[str, ...]] = {
    "pull": ("pull",),
    "backbone": ("backbone",),
    "explore": ("explore",),
    "instruct": ("model", "loss", "instruct"),
    "correct": ("model", "loss", "correct"),
    "evaluate": ("explore", "model", "evaluate"),
    "report": tuple(name for name in Params.model_fields if name != "seed"),  # the page shows the whole profile
}
# Of what is recorded alike and is no stage of the pipeline.
BESIDE: dict[str, tuple[str, ...]] = {"downstream": ("model", "downstream")}
_PARAMS_PER_CALL = 100  # MLflow's limit for one batch


class Recorder:
    """Records nothing: what a stage gets when tracking is off. `run_id` is None."""

    run_id: str | None = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Parameters beyond the stage's sections, such as the number of images; nested ones are flattened."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures by name; `/` in a name groups them in the UI."""

    def artifact(self, path: Path | str) -> None:
        """A copy of a file or folder."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Words to search by."""

    def model(self, path: Path, params: Params, *, metrics: Mapping[str, float], data: Mapping[str, str]) -> None:
        """A checkpoint for the registry (`sohes.tracking.registry.register`)."""


class _MlflowRecorder(Recorder):
    """Writes into one MLflow run. A server that fails in the middle costs records, said once, but not the work."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id, self.lost = client, run_id, 0

    def params(self, values: Mapping[str, Any]) -> None:
        self._send(lambda: _log_params(self._client, self._run_id, flatten(values)))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        batch = [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        self._send(lambda: self._client.log_batch(self._run_id, metrics=batch))

    def artifact(self, path: Path | str) -> None:
        path = Path(path)
        if not path.exists():
            raise ValueError(f"an artifact must exist (got {path})")
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._send(lambda: log(self._run_id, str(path)))

    def tags(self, values: Mapping[str, str]) -> None:
        self._send(lambda: _set_tags(self._client, self._run_id, values))

    def model(self, path: Path, params: Params, *, metrics: Mapping[str, float], data: Mapping[str, str]) -> None:
        from sohes.tracking.registry import register

        self._send(lambda: register(self._client, self._run_id, path, params, metrics=metrics, data=data))

    @property
    def _run_id(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def _send(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # whatever the store's own client throws: HTTP, SQL, S3
            self.lost += 1
            if self.lost == 1:
                print(f"warning: MLflow does not take records: {_first_line(error)}; work goes on", file=sys.stderr)


@contextmanager
def stage_run(stage: str, params: Params, root: Path, resume_id: str | None = None) -> Iterator[Recorder]:
    """A stage's run, nested in its pipeline's; FINISHED, FAILED or KILLED when the block ends, and the parent with it.

    The parent is the run tagged `sohes.pipeline` with SOHES_PIPELINE_RUN or, without it, with a digest of the params.
    resume_id: continue that run, if the store still has it for this stage with the same parameters.
    Processes of a distributed training record nothing, except the first. SohesError if the store cannot be reached.
    """
    if os.environ.get("SOHES_TRACKING", "on").lower() == "off" or os.environ.get("RANK", "0") != "0":
        yield Recorder()
        return
    store, parent_id, run_id = _start(stage, params, root, resume_id)
    recorder = _MlflowRecorder(store.client, run_id)
    status = "FAILED"
    try:
        yield recorder
        status = "FINISHED"
    except BaseException as error:
        status = "KILLED" if _interrupted(error) else "FAILED"
        recorder.tags({"sohes.error": _first_line(error)})
        raise
    finally:
        for ended in (run_id, parent_id):
            recorder._send(partial(store.client.set_terminated, ended, status))
        if recorder.lost:
            print(f"warning: MLflow missed {recorder.lost} records of stage {stage}", file=sys.stderr)


def pipeline_url(params: Params, root: Path, *, local_ui: str) -> str | None:
    """Where a browser finds this pipeline run; None if nothing was recorded.

    local_ui: address of the UI that `make ui` starts, which shows the local database.
    """
    if os.environ.get("SOHES_TRACKING", "on").lower() == "off":
        return None
    with store_errors(tracking_uri(root)), _lock(root):
        store = _connect(root)
        parent = store.find_pipeline(pipeline_id(params))
    if parent is None:
        return None
    ui = without_secrets(store.uri).rstrip("/") if store.uri.startswith("http") else local_ui
    return f"{ui}/#/experiments/{store.experiment_id}/runs/{parent.info.run_id}"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or the sqlite database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root / 'mlflow.db').resolve()}"


def has_store(root: Path) -> bool:
    """False if the store is a sqlite file that is not there; MLflow's client would make it, also for who only reads."""
    kind, _, path = tracking_uri(root).partition(":///")
    return not kind.startswith("sqlite") or Path(path.partition("?")[0]).exists()


def pipeline_id(params: Params) -> str:
    """The name by which the stages of one pipeline run find each other."""
    digest = hashlib.sha256(json.dumps(params.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    return os.environ.get("SOHES_PIPELINE_RUN") or f"params-{digest[:12]}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as dotted names: `{"a": {"b": 1}}` becomes `{"a.b": "1"}`; links without user and signature."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = without_secrets(str(value))
    return flat


# ---------------------------------------------------------------- the store


@dataclass(frozen=True)
class _Store:
    client: MlflowClient
    uri: str
    experiment_id: str

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
    with store_errors(tracking_uri(root)), _lock(root):
        store = _connect(root)
        parent_id = _pipeline_run(store, params, root)
        _end_dead_runs(store, parent_id, stage)
        run_id = _resumable(store, resume_id, stage, values)
        if run_id is None:
            tags = {"sohes.kind": "stage", "sohes.stage": stage, "mlflow.parentRunId": parent_id}
            run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=stage).info.run_id
            _log_params(store.client, run_id, values)
        _set_tags(store.client, run_id, {**_git_tags(root), **_dvc_tags(stage, root), "sohes.process": _process()})
        for started in (parent_id, run_id):
            store.client.update_run(started, status="RUNNING")
    return store, parent_id, run_id


def tracking_client(root: Path) -> MlflowClient:
    """MLflow's client for the store, quiet and impatient."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 by default: minutes until a dead server is named
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):  # they announce every table; importing mlflow resets its level
            logging.getLogger(name).setLevel(logging.ERROR)
        uri = tracking_uri(root)
        return MlflowClient(uri, registry_uri=uri)


def _connect(root: Path) -> _Store:
    """Open the store and make the experiment on first use."""
    uri, client = tracking_uri(root), tracking_client(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return _Store(client, uri, experiment.experiment_id)
        files = None if uri.startswith("http") else (root / "mlartifacts").resolve().as_uri()
        return _Store(client, uri, client.create_experiment(EXPERIMENT, artifact_location=files))


def _pipeline_run(store: _Store, params: Params, root: Path) -> str:
    """The parent's id; it is made by the first stage that asks for it."""
    name = pipeline_id(params)
    found = store.find_pipeline(name)
    if found is not None:
        return found.info.run_id
    tags = {"sohes.kind": "pipeline", "sohes.pipeline": name.replace("'", ""), **_git_tags(root)}
    run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=name).info.run_id
    _log_params(store.client, run_id, flatten(params.model_dump(mode="json")))
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


def _log_params(client: MlflowClient, run_id: str, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    params = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])


def _set_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    path = root / ".sohes/tracking.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Turns whatever the store's client throws into one sentence."""
    try:
        yield
    except SohesError:
        raise
    except Exception as error:
        raise SohesError(
            f"cannot record in MLflow at {without_secrets(uri)} ({_first_line(error)}): start that server, unset "
            "MLFLOW_TRACKING_URI for a local database, or set SOHES_TRACKING=off"
        ) from error


# ---------------------------------------------------------------- what a run says about itself


def _stage_params(stage: str, params: Params) -> dict[str, str]:
    sections = SECTIONS | BESIDE
    if stage not in sections:
        raise ValueError(f"a stage must be one of {', '.join(sections)} (got {stage!r})")
    return flatten(params.model_dump(mode="json", include={"seed", *sections[stage]}))


def _git_tags(root: Path) -> dict[str, str]:
    """Commit and whether tracked files differ from it; nothing outside a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": commit, "sohes.git.dirty": "true" if dirty else "false"}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dvc_tags(stage: str, root: Path) -> dict[str, str]:
    """`dvc.<path>`: DVC's digest of each of the stage's inputs.

    Only when DVC itself runs the stage: it has just checked that dvc.lock is true of the files.
    """
    if "DVC_ROOT" not in os.environ or not (root / "dvc.lock").exists():
        return {}
    stages = yaml.safe_load((root / "dvc.lock").read_text()).get("stages", {})
    made = {out["path"]: out.get("md5", "") for entry in stages.values() for out in entry.get("outs", [])}
    graph = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return {f"dvc.{path}": made[path] for path in graph.get(stage, {}).get("deps", []) if path in made}


def _interrupted(error: BaseException) -> bool:
    """Ctrl-C or a signal, also where a library has turned it into a sentence."""
    links = [error, error.__context__, error.__cause__]
    return any(isinstance(link, KeyboardInterrupt | SystemExit) for link in links)


def _first_line(error: BaseException) -> str:
    """What went wrong, in a line; a client's retries and stack of causes are left out."""
    lines = str(error).strip().splitlines()
    return without_secrets(lines[0].partition(" with exception HTTP")[0])[:300] if lines else type(error).__name__
