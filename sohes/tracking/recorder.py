"""What a stage records with: into one MLflow run, a file, or nowhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sohes.params import Params
from sohes.tracking.makers import describe
from sohes.tracking.store import first_line, without_secrets

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PARAMS_PER_CALL = 100  # MLflow's limit for one batch
_DIGEST = 36  # and for the digest of a data set


class Recorder:
    """Records nothing: what a stage gets when tracking is off. `run_id` is None."""

    run_id: str | None = None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures by name; `/` in a name groups them in the UI."""

    def artifact(self, path: Path | str) -> None:
        """A copy of a file or folder."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Words to search by."""

    def overall(self, values: Mapping[str, float], note: str = "") -> None:
        """Figures of the whole pipeline, for the run that this one is nested in; note: Markdown, its description."""

    def dataset(self, folder: Path, digest: str, context: str) -> None:
        """What the stage reads, for the column of data sets. context: `training` or `evaluation`."""

    def model(self, path: Path, params: Params, *, metrics: Mapping[str, float], data: Mapping[str, str]) -> None:
        """A checkpoint for the registry (`sohes.tracking.registry.register`)."""


class FileRecorder(Recorder):
    """Where MLflow is not installed: figures only, a line of JSON for each call. resumed: go on with the file."""

    run_id = "file"

    def __init__(self, path: Path, *, resumed: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resumed:
            path.unlink(missing_ok=True)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


class MlflowRecorder(Recorder):
    """Writes into one MLflow run. A server that fails midway costs records, with a warning, but not the work."""

    def __init__(self, client: MlflowClient, run_id: str, parent_id: str) -> None:
        self._client, self.run_id, self._parent_id, self.lost = client, run_id, parent_id, 0

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._metrics(self._run_id, values, step)

    def overall(self, values: Mapping[str, float], note: str = "") -> None:
        self._metrics(self._parent_id, values)
        if note:
            self.send(lambda: describe(self._client, self._parent_id, note))

    def dataset(self, folder: Path, digest: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = digest.rpartition(":")[2][:_DIGEST]
        data = Dataset(folder.as_posix(), short, "local", json.dumps({"uri": folder.as_posix()}))
        inputs = [DatasetInput(data, [InputTag("mlflow.data.context", context)])]
        for run_id in (self._run_id, self._parent_id):
            self.send(partial(self._client.log_inputs, run_id, inputs))

    def _metrics(self, run_id: str, values: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        batch = [Metric(name, float(value), now, step or 0) for name, value in values.items()]
        self.send(lambda: self._client.log_batch(run_id, metrics=batch))

    def artifact(self, path: Path | str) -> None:
        path = Path(path)
        if not path.exists():
            raise ValueError(f"an artifact must exist (got {path})")
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self.send(lambda: log(self._run_id, str(path)))

    def tags(self, values: Mapping[str, str]) -> None:
        self.send(lambda: set_tags(self._client, self._run_id, values))

    def model(self, path: Path, params: Params, *, metrics: Mapping[str, float], data: Mapping[str, str]) -> None:
        from sohes.tracking.registry import register

        self.send(lambda: register(self._client, self._run_id, path, params, metrics=metrics, data=data))

    @property
    def _run_id(self) -> str:
        assert self.run_id is not None
        return self.run_id

    def send(self, call: Callable[[], Any]) -> None:
        """Make one call; if it fails, the first time with a warning, it is counted in `lost`."""
        try:
            call()
        except Exception as error:  # whatever the store's own client throws: HTTP, SQL, S3
            self.lost += 1
            if self.lost == 1:
                print(f"warning: MLflow takes no records ({first_line(error)}); the work continues", file=sys.stderr)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as dotted names: `{"a": {"b": 1}}` becomes `{"a.b": "1"}`; links without user and signature."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = without_secrets(str(value))
    return flat


def log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Log any number of parameters."""
    from mlflow.entities import Param

    params = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(params), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])


def set_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Tag a run, replacing what it has."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])
