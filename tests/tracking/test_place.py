"""A project that was copied, moved, run in a temporary copy, or whose experiment was deleted keeps its own records."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from sohes import tracking
from sohes.errors import SohesError
from sohes.params import Params
from sohes.project import Project
from sohes.tracking import ablations
from sohes.tracking.place import correct_paths
from sohes.tracking.registry import registered_model

pytest.importorskip("mlflow")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def params(tiny_params: dict) -> Params:
    return Params.model_validate(tiny_params)


@pytest.fixture
def first(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, whose name has to be escaped in a link, with an empty database."""
    monkeypatch.setenv("SOHES_TRACKING", "on")
    root = tmp_path / "my project_1"
    root.mkdir()
    shutil.copy(database, root / "mlflow.db")
    return root


def record(root: Path, params: Params, name: str) -> str:
    """A run with one file; its id."""
    (root / name).write_text(name)
    with tracking.stage_run("pull", params, root) as recorder:
        recorder.artifact(root / name)
        assert recorder.run_id is not None
        return recorder.run_id


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("mlartifacts/*/artifacts/*"))


def read(root: Path, run_id: str, name: str, folder: Path) -> str:
    folder.mkdir()
    return Path(tracking.tracking_client(root).download_artifacts(run_id, name, str(folder))).read_text()


def test_a_copy_records_in_its_own_folder_and_knows_what_was_recorded_before(first, params, tmp_path):
    old = record(first, params, "a.txt")
    shutil.copytree(first, second := tmp_path / "my project_2")
    new = record(second, params, "b.txt")
    assert (files(first), files(second)) == (["a.txt"], ["a.txt", "b.txt"])
    shutil.rmtree(first)
    assert read(second, old, "a.txt", tmp_path / "old") == "a.txt"
    assert read(second, new, "b.txt", tmp_path / "new") == "b.txt"


def test_a_moved_project_never_makes_its_old_folder_again_and_loads_its_models(first, params, tiny_model, tmp_path):
    with tracking.stage_run("evaluate", params, first) as recorder:
        recorder.model(tiny_model, params, metrics={"AR": 1.0}, data={"eval": "sha256:e"})
    moved = tmp_path / "elsewhere/deep"
    moved.parent.mkdir()
    first.rename(moved)
    assert registered_model("mlflow:/sohes@champion", moved).read_bytes() == tiny_model.read_bytes()
    record(moved, params, "b.txt")
    assert not first.exists()


def test_other_peoples_places_are_left_alone(first, params, tmp_path):
    from mlflow.tracking import MlflowClient

    record(first, params, "a.txt")
    client = MlflowClient(tracking.tracking_uri(first))
    theirs = {"s3": "s3://bucket/mlartifacts", "files": (tmp_path / "my project_1x/files").as_uri()}
    for name, place in theirs.items():
        client.create_experiment(name, artifact_location=place)
    shutil.copytree(first, second := tmp_path / "copy")
    client = tracking.tracking_client(second)
    for name, place in theirs.items():
        assert client.get_experiment_by_name(name).artifact_location == place
    before = (second / "mlflow.db").read_bytes()
    (second / "linked").mkdir()
    (second / "linked/mlflow.db").symlink_to(second / "mlflow.db")
    correct_paths(Project(second / "linked"))  # two projects that share a database must not fight over it
    assert (second / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("below", ["standalone/tmp1", "tmp2", "standalone/tmp3/part", "tmp4/part"])
def test_a_temporary_experiment_is_recorded_in_the_project_it_is_of(first, params, tmp_path, below):
    (first / "part").mkdir()
    shutil.copy(first / "mlflow.db", first / "part")
    for root in (first, first / "part"):
        (root / "dvc.yaml").touch()
    copy = first / ".dvc/tmp/exps" / below
    copy.mkdir(parents=True)
    run_id = record(copy, params, "a.txt")
    outer = first / "part" if below.endswith("part") else first
    shutil.rmtree(first / ".dvc")
    assert tracking.tracking_client(outer).get_run(run_id).info.status == "FINISHED"
    assert read(outer, run_id, "a.txt", tmp_path / "read") == "a.txt"


def test_a_deleted_experiment_stays_in_the_trash_and_a_new_one_takes_its_name(first, params):
    client = tracking.tracking_client(first)
    old = record(first, params, "a.txt")
    for _ in range(2):
        client.delete_experiment(client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id)
        new = record(first, params, "b.txt")
        found = client.get_experiment_by_name(tracking.EXPERIMENT)
        runs = [run.info.run_id for run in client.search_runs([found.experiment_id]) if run.info.run_name == "pull"]
        assert runs == [new]
    assert client.get_run(old).info.lifecycle_stage == "deleted"
    assert tracking.pipeline_url(params, first, local_ui="")


def test_a_deleted_ablation_is_one_that_was_not_computed(first, repository):
    client = tracking.tracking_client(first)
    client.delete_experiment(client.create_experiment(f"{ablations.PREFIX}table-3"))
    shutil.copytree(repository / "params/ablations", first / "params/ablations")
    with pytest.raises(SohesError, match="run `sohes ablate table-3` first"):
        ablations.recorded_rows("table-3", first)


def test_who_reads_is_told_what_helps_who_reads(first, params, monkeypatch):
    (first / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(
        SohesError,
        match=r"^cannot read from MLflow at sqlite:.*: fix that file .*, or name another store with .*_URI$",
    ):
        registered_model("mlflow:/sohes@champion", first)
    with pytest.raises(
        SohesError, match=r"^cannot record in MLflow at sqlite:.*MLFLOW_TRACKING_URI, or set SOHES_TRACKING=off$"
    ):
        record(first, params, "a.txt")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(SohesError, match=r"^cannot read from MLflow at http://127.0.0.1:9 .*for a local database$"):
        registered_model("mlflow:/sohes@champion", first)


def test_a_database_that_may_not_be_written_is_left_as_it_is(first, params, tmp_path, monkeypatch):
    record(first, params, "a.txt")
    shutil.copytree(first, second := tmp_path / "copy")
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **_: connect(f"file:{path}?mode=ro", uri=True))
    correct_paths(Project(second))
    monkeypatch.undo()
    correct_paths(Project(second))
    with sqlite3.connect(second / "mlflow.db") as store:
        (place,) = store.execute("SELECT artifact_location FROM experiments WHERE name = 'sohes'").fetchone()
    store.close()
    assert place == (second / "mlartifacts").as_uri()
