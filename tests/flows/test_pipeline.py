import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from processes import processes_with

import flows.pipeline
from flows.graph import reproduce_command
from sohes.errors import TEMPORARY, SohesError, TemporaryError
from sohes.launch import load_profile, run_task
from sohes.params import Params
from sohes.pipeline import CODE
from sohes.project import Project
from sohes.stages import explore, pull

# Prefect and its server use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROW = {"AR": 12.5, "AR_S": 1.0, "AR_M": 2.0, "AR_L": None, "AP": 3.0, "masks_per_image": 4.0, "seconds_per_image": 0.5}
ROWS = {"explore": {**ROW, "images": 2}}


def copy_stage(source: str, target: str, command: str = "") -> dict:
    """A stage that copies a file, after whatever else it is told to do."""
    return {
        "cmd": f"{command or 'true'} && mkdir -p metrics && cp {source} {target}",
        "deps": [source],
        "outs": [target],
    }


@pytest.fixture
def small(tmp_path: Path, repository: Path) -> Path:
    """A project with two quick stages, the second of which writes the scores that the flow shows."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text())
    (tmp_path / "infra/launch").mkdir(parents=True)
    (tmp_path / "infra/launch/local.yaml").write_text((repository / "infra/launch/local.yaml").read_text())
    (tmp_path / "scores.json").write_text(json.dumps(ROWS))
    write_stages(tmp_path, first=copy_stage("scores.json", "copied.json"))
    return tmp_path


def test_a_display_that_fails_is_said_once_and_stops_no_jobs(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr("flows.pipeline.create_progress_artifact", fail)
    said: list[str] = []
    progress = flows.pipeline.ShardProgress("explore", said.append)
    progress(0, 4)
    progress(1, 4)
    assert said == ["Prefect does not show the progress (timed out); the jobs go on"]


def write_stages(folder: Path, first: dict) -> None:
    stages = {"first": first, "second": copy_stage("copied.json", "metrics/evaluate.json", "echo second says hello")}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def run_flow(folder: Path):
    """The flow's final state, and its tasks' runs by their stage."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    state = flows.pipeline.pipeline(folder, return_state=True)
    with get_client(sync_client=True) as client:
        flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        return state, {run.name: run for run in client.read_task_runs(flow_run_filter=flow_run)}


@pytest.fixture
def no_delay(monkeypatch):
    monkeypatch.setattr(flows.pipeline, "run_stage", flows.pipeline.run_stage.with_options(retry_delay_seconds=0))


@pytest.mark.usefixtures("prefect_server")
class TestOnAServer:
    def test_stages_run_once_and_are_cached_while_nothing_changes(self, small):
        state, runs = run_flow(small)
        assert state.is_completed()
        assert {name: run.state_name for name, run in runs.items()} == {"first": "Completed", "second": "Completed"}
        assert json.loads((small / "metrics/evaluate.json").read_text()) == ROWS
        assert "second says hello" in (small / ".sohes/logs/second.log").read_text()

        state, runs = run_flow(small)
        assert state.is_completed()
        assert {name: run.state_name for name, run in runs.items()} == {"first": "Cached", "second": "Cached"}

        (small / "scores.json").write_text(json.dumps({"explore": {**ROW, "AR": 13.0}}))
        (small / "metrics/evaluate.json").unlink()
        _, runs = run_flow(small)
        assert {run.state_name for run in runs.values()} == {"Completed"}
        assert json.loads((small / "metrics/evaluate.json").read_text())["explore"]["AR"] == 13.0

    def test_the_code_is_noted_each_time_and_on_this_machine(self, small, repository, monkeypatch):
        """As in a project that `sohes init` has made, whose stages depend on what the first one notes."""
        note = {
            "cmd": "mkdir -p metrics && cp version metrics/note", "always_changed": True,
            "outs": [{"metrics/note": {"cache": False}}],
        }  # fmt: skip
        first, second = copy_stage("scores.json", "copied.json"), copy_stage("copied.json", "metrics/evaluate.json")
        first["deps"].append("metrics/note")
        stages = {CODE: note, "first": first, "second": second}
        (small / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
        shutil.copy(repository / "infra/launch/slurm.yaml", small / "infra/launch")
        local = load_profile(small / "infra/launch", "local")
        elsewhere = []

        def run_there(stage, root, profile, **_):
            elsewhere.append(stage)
            return run_task(reproduce_command(stage), task=stage, root=root, profile=local)

        monkeypatch.setattr(flows.pipeline, "run_elsewhere", run_there)
        monkeypatch.setenv("SOHES_LAUNCH", "slurm")
        for version, ran in (("1", ["first", "second"]), ("1", []), ("2", ["first"])):
            (small / "version").write_text(version)
            elsewhere.clear()
            state, runs = run_flow(small)
            assert state.is_completed()
            assert runs[CODE].state_name == "Completed"
            assert elsewhere == ran
        (small / "version").write_text("3")
        elsewhere.clear()
        flows.pipeline.one_stage("first", small)
        assert elsewhere == ["first"]

    def test_it_leaves_the_table_the_pictures_and_the_way_to_mlflow(self, small, monkeypatch, read_artifact):
        (small / "reports").mkdir()
        for kind in ("matched", "strongest"):
            Project(small).mosaic(kind).write_bytes(kind.encode())
        monkeypatch.setattr("sohes.tracking.pipeline_url", lambda params, root, local_ui: f"{local_ui}/#/runs/1")
        run_flow(small)
        assert "| explore | 12.5 | 1.0 | 2.0 | - | 3.0 | 4.0 | 0.500 |" in read_artifact("recall")
        for key, content in {"picture": b"matched", "picture-all-masks": b"strongest"}.items():
            kind, data = read_artifact(key).split(",")
            assert (kind, base64.b64decode(data)) == ("data:image/jpeg;base64", content)
        assert "http://127.0.0.1:5000/#/runs/1" in read_artifact("mlflow")

    def test_without_mlflow_at_the_end_a_flow_whose_stages_succeeded_is_completed(self, small, monkeypatch):
        def down(*_: object, **__: object) -> None:
            raise TemporaryError("cannot read from MLflow: start that server")

        monkeypatch.setattr("sohes.tracking.pipeline_url", down)
        state, _ = run_flow(small)
        assert state.is_completed()

    def test_a_stage_that_fails_once_is_tried_again(self, small, no_delay):
        once = "if [ -e tried ]; then true; else touch tried; exit 1; fi"
        write_stages(small, first=copy_stage("scores.json", "copied.json", once))
        state, runs = run_flow(small)
        assert state.is_completed()
        assert (runs["first"].run_count, runs["second"].run_count) == (2, 1)

    def test_a_stage_that_keeps_failing_stops_the_flow_with_its_own_sentence(self, small, no_delay):
        said = "echo 'sohes: the cup is empty: fill it' >&2; exit 1"
        write_stages(small, first=copy_stage("scores.json", "copied.json", said))
        state, runs = run_flow(small)
        assert state.is_failed()
        assert list(runs) == ["first"]
        assert runs["first"].run_count == 1  # nobody else can fill it
        with pytest.raises(SohesError, match=r"stage first failed: the cup is empty: fill it \(log: .*first.log\)"):
            state.result()
        assert flows.pipeline.main(["--root", str(small)]) == 1

    @pytest.mark.parametrize(
        "trouble", ["echo 'sohes: the server is down: wait for it' >&2; exit 75", "echo Killed; exit 137"]
    )
    def test_what_may_pass_is_tried_three_times(self, small, no_delay, trouble):
        write_stages(small, first=copy_stage("scores.json", "copied.json", trouble))
        state, runs = run_flow(small)
        assert state.is_failed()
        assert runs["first"].run_count == 3

    @pytest.mark.slow
    def test_of_two_pipelines_started_at_once_one_is_refused_and_labels_are_those_of_one(
        self, labelling, tiny_params, tmp_path_factory, repository
    ):
        from prefect.settings import PREFECT_API_URL

        quiet = tmp_path_factory.mktemp("quiet")
        for root in (labelling, quiet):
            (root / "params.yaml").write_text(yaml.safe_dump(tiny_params))
        params = Params.model_validate(tiny_params)
        pull.run(params, quiet)
        explore.run(params, quiet)
        environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PYTHONPATH": str(repository)}
        environment["SOHES_WORKERS"] = "1"
        command = [sys.executable, "-m", "flows.pipeline"]
        both = [
            subprocess.Popen(command, cwd=labelling, env=environment, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        told = {process.returncode: said for process in both for _, said in [process.communicate(timeout=300)]}
        assert set(told) == {0, TEMPORARY}, told
        assert f"is at work on a pipeline in {labelling} already: wait until it ends, or stop it" in told[TEMPORARY]
        labels = [
            {p.name: p.read_bytes() for p in (root / "data/pseudo_labels").iterdir()} for root in (labelling, quiet)
        ]
        assert labels[0] == labels[1]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("dvc.yaml", "no dvc.yaml in"),
        ("params.yaml", "no params file at"),
        ("infra/launch/local.yaml", "no launch profile"),
    ],
)
def test_a_folder_that_is_no_project_is_refused_before_a_server_starts(small, capsys, monkeypatch, missing, message):
    monkeypatch.setattr(flows.pipeline, "pipeline", lambda *_: pytest.fail("the flow was started"))
    (small / missing).unlink()
    assert flows.pipeline.main(["--root", str(small)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"sohes: {message}")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: (root / ".sohes/pipeline.lock").mkdir(parents=True), "pipeline.lock: is a directory"),
        (lambda root: (root / ".sohes").touch(), ".sohes: file exists"),
        (lambda root: shutil.rmtree(root / ".git"), "is in no Git repository, and DVC refuses to work: `git init`"),
        (lambda root: (root / "dvc.yaml").write_text("stages: [\n"), "dvc.yaml is not valid YAML"),
    ],
)
def test_what_would_stop_the_flow_is_one_sentence_before_a_server_starts(small, capsys, monkeypatch, prepare, message):
    monkeypatch.setattr(flows.pipeline, "pipeline", lambda *_: pytest.fail("the flow was started"))
    prepare(small)
    assert flows.pipeline.main(["--root", str(small)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("sohes: ")
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [(signal.SIGINT, 130, "sohes: interrupted"), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "")],
)
def test_a_signal_ends_the_flow_its_stage_and_its_temporary_server(small, repository, number, code, says):
    slow = copy_stage("scores.json", "copied.json", "touch started; sleep 300")
    write_stages(small, first=slow)
    environment = {**os.environ, "PREFECT_HOME": str(small / "prefect"), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "flows.pipeline"]
    process = subprocess.Popen(command, cwd=small, env=environment, stderr=subprocess.PIPE, text=True)
    while not (small / "started").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(number)
    _, told = process.communicate(timeout=90)
    assert process.returncode == code, told
    assert says in told
    assert not processes_with(f"PREFECT_HOME={small}")
