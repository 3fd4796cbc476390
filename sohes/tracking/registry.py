"""MLflow's registry: trained models as pyfuncs, and the alias `champion` for the best of them."""

from __future__ import annotations

import io
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from packaging.requirements import Requirement
from PIL import Image

from sohes.errors import SohesError
from sohes.params import Params
from sohes.project import Project
from sohes.tracking.store import has_store, store_errors, tracking_client, tracking_uri
from sohes.work.files import digest_file
from sohes.work.identity import identity

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

NAME = "sohes"
CHAMPION = "champion"
_EXTRAS = ("", "torch")  # of this package, whose own packages a serving environment needs,
_PACKAGES = ("pandas",)  # beside these; MLflow adds itself
_DIGEST_LENGTH = 36  # MLflow keeps no more of a data set's digest


def register(
    client: MlflowClient,
    run_id: str,
    model: Path,
    params: Params,
    *,
    metrics: Mapping[str, float],
    data: Mapping[str, str],
) -> ModelVersion:
    """Put a checkpoint into the registry, its metrics and the digests of its data linked; returns its version.

    metrics: `AR` among them, if the images are annotated. data: digests by name, `eval` among them.
    The alias `champion` goes to the first version, and to this one if its AR is higher on the same evaluation images,
    predicted by the same `evaluate` section. The same model on the same images by the same section is registered once.
    """
    section = params.evaluate.model_dump(mode="json", exclude={"batch_size", "images_per_shard"})  # cost, not results
    tags = {"sohes.model": digest_file(model), "sohes.evaluate": identity(section)}
    tags |= {f"sohes.{name}": value for name, value in data.items()}
    versions = client.search_model_versions(f"name = '{NAME}'")
    same = (v for v in versions if v.tags.get("sohes.model") == tags["sohes.model"] and _scored_alike(tags, v.tags))
    version = next(same, None) or _add(client, run_id, model, params, tags, metrics=metrics)
    if beats(version.tags, _champion(client)):  # also of a version whose run was stopped before it asked
        client.set_registered_model_alias(NAME, CHAMPION, version.version)
    return version


def _add(
    client: MlflowClient,
    run_id: str,
    model: Path,
    params: Params,
    tags: dict[str, str],
    *,
    metrics: Mapping[str, float],
) -> ModelVersion:
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=NAME, source_run_id=run_id, tags=tags, model_type="pyfunc")
    with tempfile.TemporaryDirectory() as folder:
        save_pyfunc(Path(folder) / "model", model, params)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    _link_metrics(client, run_id, logged.model_id, metrics, tags["sohes.eval"])

    tags["sohes.logged_model"] = logged.model_id
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME, description="Masks, scores and parents of everything in a photograph.")
    scored = {f"sohes.{name}": str(value) for name, value in metrics.items()}
    return client.create_model_version(
        NAME, logged.artifact_location, run_id, tags={**tags, **scored}, model_id=logged.model_id
    )


def beats(challenger: Mapping[str, str], champion: Mapping[str, str] | None) -> bool:
    """Whether the version with these tags is better: there is no other, or its AR, scored alike, is lower."""
    if champion is None:
        return True
    both_scored = "sohes.AR" in challenger and "sohes.AR" in champion
    if not (both_scored and _scored_alike(challenger, champion)):
        return False
    return float(challenger["sohes.AR"]) > float(champion["sohes.AR"])


def _scored_alike(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether on the same images by the same `evaluate` section, which versions of older releases do not tell."""
    told = {tags["sohes.evaluate"] for tags in (one, other) if "sohes.evaluate" in tags}
    return one.get("sohes.eval") == other.get("sohes.eval") and len(told) < 2


def registered_model(name: str, root: Path) -> Path:
    """The checkpoint behind `mlflow:/NAME@ALIAS` or `mlflow:/NAME/VERSION`, fetched once into `.sohes/registry`.

    SohesError if the registry cannot be reached or has no such model.
    """
    model, at, alias = name.removeprefix("mlflow:").strip("/").partition("@")
    model, slash, number = (model, "", "") if at else model.partition("/")
    if not model or not (alias or number):
        raise SohesError(f"{name} is no name in the registry: write mlflow:/NAME@ALIAS or mlflow:/NAME/VERSION")
    if not has_store(root):
        raise SohesError(
            f"no MLflow database at {tracking_uri(root)}: run in the folder of a project where `sohes evaluate` "
            "has run, or name another store with MLFLOW_TRACKING_URI"
        )
    with store_errors(tracking_uri(root), reading=True):
        client = tracking_client(root)
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_model_version_by_alias(model, alias) if at else client.get_model_version(model, number)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise SohesError(
                f"the registry has no {model}{at}{alias}{slash}{number}: `sohes evaluate` registers the trained model"
            ) from None
        folder = Project(root).state("registry") / f"{model}-{found.version}-{found.tags.get('sohes.model', '')[-12:]}"
        if not folder.exists():
            _fetch(client.get_model_version_download_uri(model, found.version), folder, tracking_uri(root))
    checkpoints = list(folder.glob("artifacts/*.safetensors"))
    if len(checkpoints) != 1:
        raise SohesError(f"{name} is no model of SOHES: name a version that `sohes evaluate` has registered")
    return checkpoints[0]


def save_pyfunc(folder: Path, model: Path, params: Params) -> None:
    """Write a folder that MLflow loads and serves, also where this package has never been installed.

    It holds the checkpoint, params, this package's code, all that it requires, a signature and an example.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot know our types, and that packages are newer than its tests
        import mlflow.pyfunc
        import pandas as pd
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Array, ColSpec, Schema

        inputs = Schema([ColSpec("binary", "image")])
        lists = {"masks": "string", "scores": "double", "parents": "long"}
        sizes = [ColSpec("long", "height"), ColSpec("long", "width")]
        outputs = Schema([*sizes, *(ColSpec(Array(kind), name) for name, kind in lists.items())])
        with tempfile.TemporaryDirectory() as scratch:
            values = Path(scratch) / "params.yaml"
            values.write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False))
            code = Path(scratch) / "sohes"
            left_out = shutil.ignore_patterns("__pycache__", "released")  # the released model is not this one
            shutil.copytree(Path(__file__).parents[1], code, ignore=left_out)
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"model": str(model), "card": str(model.with_suffix(".json")), "params": str(values)},
                signature=ModelSignature(inputs=inputs, outputs=outputs),
                input_example=pd.DataFrame({"image": [_example()]}),
                code_paths=[str(code)],
                pip_requirements=_requirements(),
            )


def _requirements() -> list[str]:
    """Each package that this one's code needs to predict, in the version that is installed."""
    wanted = [Requirement(line) for line in requires("sohes") or []]
    needed = {
        requirement.name
        for requirement in wanted
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in _EXTRAS)
    }
    # Without what follows a plus sign, as in 2.11.0+cpu: an index may have another build of the same version.
    return [f"{name}=={version(name).partition('+')[0]}" for name in sorted({*needed, *_PACKAGES})]


def _example() -> bytes:
    """A small PNG: a bright square on a dark ground."""
    image = np.full((64, 64, 3), 40, np.uint8)
    image[16:48, 16:48] = (220, 120, 60)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _link_metrics(
    client: MlflowClient, run_id: str, model_id: str, metrics: Mapping[str, float], eval_digest: str
) -> None:
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    now = get_current_time_millis()
    linked: dict[str, Any] = {
        "model_id": model_id,
        "dataset_name": "eval",
        "dataset_digest": eval_digest.removeprefix("sha256:")[:_DIGEST_LENGTH],
        "run_id": run_id,
    }
    client.log_batch(run_id, metrics=[Metric(name, float(v), now, 0, **linked) for name, v in metrics.items()])


def _champion(client: MlflowClient) -> dict[str, str] | None:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_model_version_by_alias(NAME, CHAMPION).tags)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _fetch(source: str, folder: Path, uri: str) -> None:
    from mlflow.artifacts import download_artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        got = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri)
        try:
            Path(got).rename(folder)
        except OSError:  # another process has fetched it meanwhile
            if not folder.is_dir():
                raise
