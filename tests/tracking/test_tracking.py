import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from sohes import tracking
from sohes.errors import SohesError, TemporaryError
from sohes.params import Params, load_params
from sohes.pipeline import STAGES
from sohes.tracking import store as stores

mlflow = pytest.importorskip("mlflow")

# MLflow's own modules use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def params(repository: Path) -> Params:
    return load_params(repository / "params.yaml")


@pytest.fixture
def root(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOHES_TRACKING", "on")
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


def client(root: Path):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking.tracking_uri(root))


def runs(root: Path) -> dict[str, list]:
    """Runs by name, oldest first; the whole pipeline's by its id."""
    store = client(root)
    experiment = store.get_experiment_by_name(tracking.EXPERIMENT)
    named: dict[str, list] = {}
    for run in store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]):
        named.setdefault(run.data.tags.get("sohes.pipeline", run.info.run_name), []).append(run)
    return named


def test_a_stage_records_its_sections_metrics_and_artifacts_under_the_pipelines_run(root, params):
    (root / "model.json").write_text("{}")
    (root / "folder").mkdir()
    (root / "folder/inner.txt").write_text("x")
    with tracking.stage_run("explore", params, root) as recorder:
        recorder.metrics({"AR": 12.5}, step=3)
        recorder.artifact(root / "model.json")
        recorder.artifact(root / "folder")
        recorder.tags({"colour": "blue"})

    parent = runs(root)[tracking.pipeline_id(params)][0]
    child = runs(root)["explore"][0]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert child.data.params["explore.theta_cover"] == "0.9"
    assert child.data.params["seed"] == "0"
    assert not [name for name in child.data.params if name.startswith(("instruct.", "pull."))]
    assert parent.data.params["instruct.batch_size"] == str(params.instruct.batch_size)
    assert child.data.tags["colour"] == "blue"
    history = client(root).get_metric_history(child.info.run_id, "AR")
    assert [(m.step, m.value) for m in history] == [(3, 12.5)]
    assert {a.path for a in client(root).list_artifacts(child.info.run_id)} == {"model.json", "inner.txt"}
    assert list((root / "mlartifacts").rglob("model.json"))


def test_the_first_screens_show_what_came_out(root, params):
    """The experiment opens on its runs; the whole pipeline's run has figures, a description and its data sets."""
    with tracking.stage_run("evaluate", params, root) as recorder:
        recorder.dataset(Path("data/eval"), "sha256:" + "0123456789" * 6, "evaluation")
        recorder.overall({"correct/AR": 36.2}, "| phase | AR |")
    store, (parent,) = client(root), runs(root)[tracking.pipeline_id(params)]
    assert parent.data.metrics == {"correct/AR": 36.2}
    assert parent.data.tags["mlflow.note.content"] == "| phase | AR |"
    (given,) = parent.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("data/eval", "012345678901234567890123456789012345")
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "evaluation")]
    assert runs(root)["evaluate"][0].inputs.dataset_inputs[0].dataset.digest == given.dataset.digest
    kind = store.get_experiment(parent.info.experiment_id).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")],
)
def test_the_status_says_how_the_stage_ended(root, params, error, status):
    with pytest.raises(type(error)), tracking.stage_run("pull", params, root):
        raise error
    assert runs(root)["pull"][0].info.status == status
    assert runs(root)[tracking.pipeline_id(params)][0].info.status == status


def test_an_interruption_that_became_a_sentence_still_counts_as_killed(root, params):
    error = SohesError("stopped by the user")
    error.__context__ = KeyboardInterrupt()
    with pytest.raises(SohesError), tracking.stage_run("pull", params, root):
        raise error
    assert runs(root)["pull"][0].info.status == "KILLED"


def test_a_resumed_stage_continues_the_same_run(root, params):
    with contextlib.suppress(KeyboardInterrupt), tracking.stage_run("instruct", params, root) as first:
        first.metrics({"loss": 2.0}, step=1)
        raise KeyboardInterrupt
    assert [run.info.status for run in runs(root)["instruct"]] == ["KILLED"]
    with tracking.stage_run("instruct", params, root, resume_id=first.run_id) as second:
        assert second.run_id == first.run_id
        second.metrics({"loss": 1.0}, step=2)
    (run,) = runs(root)["instruct"]
    assert run.info.status == "FINISHED"
    assert [m.value for m in client(root).get_metric_history(run.info.run_id, "loss")] == [2.0, 1.0]


def test_a_run_that_is_gone_or_had_other_parameters_is_not_resumed(root, params):
    with tracking.stage_run("instruct", params, root, resume_id="0" * 32) as first:
        pass
    assert first.run_id != "0" * 32
    changed = params.model_copy(update={"seed": 5})
    with tracking.stage_run("instruct", changed, root, resume_id=first.run_id) as second:
        assert second.run_id != first.run_id
    with tracking.stage_run("correct", params, root, resume_id=first.run_id) as third:
        assert third.run_id != first.run_id


def test_stages_of_one_pipeline_share_a_parent_that_the_environment_may_name(root, params, monkeypatch):
    monkeypatch.setenv("SOHES_PIPELINE_RUN", "night's shift")
    for stage in ("pull", "explore"):
        with tracking.stage_run(stage, params, root):
            pass
    named = runs(root)
    (parent,) = named["nights shift"]
    assert parent.info.run_name == "night's shift: scenes, vit_tiny_patch16_224, train, seed 0"
    assert {named[s][0].data.tags["mlflow.parentRunId"] for s in ("pull", "explore")} == {parent.info.run_id}
    url = tracking.pipeline_url(params, root, local_ui="http://127.0.0.1:5000")
    view = "?workflowType=machine_learning"
    assert url == f"http://127.0.0.1:5000/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}{view}"


def test_two_stages_started_at_once_make_one_parent(root, params):
    started = threading.Barrier(2)

    def work(stage: str) -> None:
        started.wait()
        with tracking.stage_run(stage, params, root):
            pass

    threads = [threading.Thread(target=work, args=(stage,)) for stage in ("backbone", "explore")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    named = runs(root)
    assert len(named[tracking.pipeline_id(params)]) == 1
    assert [len(named[s]) for s in ("backbone", "explore")] == [1, 1]


def test_the_run_of_a_stage_that_died_without_a_word_is_ended_by_the_next(root, params, repository):
    script = (
        "import os, sys; from pathlib import Path; from sohes import tracking; from sohes.params import load_params\n"
        "with tracking.stage_run('explore', load_params(Path(sys.argv[1])), Path(sys.argv[2])): os._exit(9)"
    )
    command = [sys.executable, "-c", script, str(repository / "params.yaml"), str(root)]
    assert subprocess.run(command, check=False, env={**os.environ, "SOHES_TRACKING": "on"}).returncode == 9
    assert [run.info.status for run in runs(root)["explore"]] == ["RUNNING"]
    with tracking.stage_run("explore", params, root):
        pass
    assert [run.info.status for run in runs(root)["explore"]] == ["KILLED", "FINISHED"]


def test_a_run_knows_its_commit_and_under_dvc_the_digests_of_its_inputs(root, params, monkeypatch):
    git = ["git", "-C", str(root)]
    graph = {"stages": {"explore": {"cmd": "x", "deps": ["data/images", "sohes/masks.py"]}}}
    lock = {
        "stages": {"pull": {"outs": [{"path": "data/images", "md5": "12ab.dir"}, {"path": "data/eval", "md5": "3"}]}}
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump(graph))
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "dvc.yaml"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))

    with tracking.stage_run("explore", params, root):
        pass
    monkeypatch.setenv("DVC_ROOT", str(root))
    (root / "dvc.yaml").write_text(yaml.safe_dump(graph) + "# changed\n")
    with tracking.stage_run("explore", params, root):
        pass
    alone, under_dvc = (run.data.tags for run in runs(root)["explore"])
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert alone["mlflow.source.git.commit"] == commit
    assert (alone["sohes.git.dirty"], under_dvc["sohes.git.dirty"]) == ("false", "true")
    assert under_dvc["dvc.data/images"] == "12ab.dir"
    assert not [tag for tag in alone if tag.startswith("dvc.")]


def test_a_server_that_is_down_is_one_sentence_without_its_password(tmp_path, params, monkeypatch):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sentence = r"cannot record in MLflow at http://127.0.0.1:9 .*SOHES_TRACKING=off"
    with pytest.raises(SohesError, match=sentence) as caught, tracking.stage_run("pull", params, tmp_path):
        pytest.fail("the stage ran")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        (
            "postgresql+psycopg2://me:secret@127.0.0.1:9/runs",
            r"cannot record in MLflow at postgresql\+psycopg2://127.0.0.1:9/runs "
            r"\(its driver psycopg2 is not installed\): install it, or name .*, or set SOHES_TRACKING=off$",
        ),
        ("nosuch://here", "at nosuch://here .MLflow knows no such address.: correct MLFLOW_TRACKING_URI, "),
    ],
)
def test_an_address_that_no_server_can_have_is_told_apart_from_a_server_that_is_down(
    tmp_path, params, monkeypatch, uri, sentence
):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(SohesError, match=sentence) as caught, tracking.stage_run("pull", params, tmp_path):
        pytest.fail("the stage ran")
    assert not isinstance(caught.value, TemporaryError)


def test_a_server_that_keeps_us_waiting_is_named_without_its_password(monkeypatch, capsys):
    monkeypatch.setattr(stores, "SILENCE", 0.01)
    with stores.store_errors("postgresql://me:secret@db.example:5432/runs"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "waiting for MLflow at postgresql://db.example:5432/runs\n"
    with stores.store_errors("sqlite:////home/me/mlflow.db"):  # other processes of the project hold it for a moment
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_database_that_cannot_be_used_is_one_sentence(tmp_path, params, monkeypatch, capfd):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    (tmp_path / "shared.db").write_text("no database at all, but long enough to be looked at as one " * 3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/shared.db")
    sentence = r"shared\.db \(.*\): fix that file or its permissions"
    with pytest.raises(SohesError, match=sentence) as caught, tracking.stage_run("pull", params, tmp_path):
        pytest.fail("the stage ran")
    assert not isinstance(caught.value, TemporaryError)  # trying again is no help
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # MLflow's own account of it has a hundred lines


@pytest.mark.parametrize(
    ("said", "kind"), [("attempt to write a readonly database", SohesError), ("database is locked", TemporaryError)]
)
def test_the_databases_own_words_are_told_and_a_lock_may_pass(said, kind):
    from sqlalchemy.exc import OperationalError

    wrapped = OperationalError("INSERT INTO runs VALUES (?)", {}, sqlite3.OperationalError(said))
    wrapped.add_detail("(raised as a result of Query-invoked autoflush)")
    with (
        pytest.raises(SohesError, match=rf"mlflow\.db \({said}\): ") as caught,
        stores.store_errors("sqlite:///mlflow.db"),
    ):
        raise RuntimeError("something went wrong") from wrapped
    assert type(caught.value) is kind


def test_records_lost_on_the_way_are_counted_and_do_not_stop_the_work(root, params, capsys):
    with tracking.stage_run("pull", params, root) as recorder:
        (root / "mlflow.db").rename(root / "gone.db")
        (root / "mlflow.db").mkdir()  # sqlite cannot open a folder
        recorder._client._tracking_client.store.engine.dispose()
        recorder.metrics({"loss": 1.0})
        recorder.metrics({"loss": 2.0})
    told = capsys.readouterr().err
    assert told.count("the work continues") == 1
    assert "missed 4 records of stage pull" in told  # two metrics and the two statuses


@pytest.mark.parametrize(("variable", "value"), [("SOHES_TRACKING", "off"), ("RANK", "1")])
def test_nothing_is_recorded_when_tracking_is_off_or_by_the_second_process(
    tmp_path, params, monkeypatch, variable, value
):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setenv(variable, value)
    with tracking.stage_run("pull", params, tmp_path) as recorder:
        recorder.metrics({"AR": 1.0})
        recorder.tags({"a": "b"})
        recorder.artifact(tmp_path / "absent")
    assert recorder.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_stage_is_refused(tmp_path, params, monkeypatch):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    with pytest.raises(ValueError, match=r"got 'polish'"), tracking.stage_run("polish", params, tmp_path):
        pass


def test_the_sections_of_a_stage_are_those_that_dvc_watches(repository):
    stages = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]
    watched = {name: set(stage["params"]) - {"seed"} for name, stage in stages.items()}
    assert watched == {name: set(stage.sections) for name, stage in STAGES.items()}


def test_flatten_joins_names_with_dots():
    assert tracking.flatten({"a": {"b": 1, "c": [0.5, 0.25]}, "d": None}) == {
        "a.b": "1",
        "a.c": "[0.5, 0.25]",
        "d": "None",
    }


def test_without_mlflow_figures_go_to_a_file_that_a_resumed_run_continues(tmp_path, params, monkeypatch, capsys):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setattr("sohes.tracking.runs.is_installed", lambda package: False)
    curves, steps = tmp_path / "metrics/curves/instruct.jsonl", []
    for resume_id in (None, None, "file"):
        with tracking.stage_run("instruct", params, tmp_path, resume_id) as recorder:
            assert recorder.run_id == "file"
            recorder.metrics({"loss": 2.5}, step=10 * (len(steps) + 1))
            recorder.artifact(tmp_path / "absent")
        steps.append([json.loads(line) for line in curves.read_text().splitlines()])
    assert steps[1] == [{"step": 20, "loss": 2.5}]
    assert steps[2] == [*steps[1], {"step": 30, "loss": 2.5}]
    assert "instruct: MLflow is not installed, so figures go to" in capsys.readouterr().err
    assert tracking.pipeline_url(params, tmp_path, local_ui="") is None
    assert not (tmp_path / "mlflow.db").exists()


def test_a_pipeline_without_records_makes_no_database(params, tmp_path):
    assert tracking.pipeline_url(params, tmp_path, local_ui="") is None
    assert not list(tmp_path.iterdir())
