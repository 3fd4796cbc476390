"""Every flow runs its commands where the launch profile says."""

from pathlib import Path

import pytest
import yaml
from prefect.logging import disable_run_logger

import flows.ablations
import flows.cluster
import flows.pipeline
from sohes.errors import SohesError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def login_node(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a Slurm profile, on a machine that turns out to have no Slurm: no command of it may run here."""
    (tmp_path / "infra/launch").mkdir(parents=True)
    profile = (repository / "infra/launch/slurm.yaml").read_text()
    (tmp_path / "infra/launch/slurm.yaml").write_text(profile)
    stage = {"cmd": "python work.py backbone", "deps": ["work.py"], "params": ["seed"], "outs": ["ran-here"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"backbone": stage}}))
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "work.py").write_text("open('ran-here', 'w')")
    monkeypatch.setattr(flows.pipeline, "is_fresh", lambda stage, root: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


STARTS = {
    "a stage": lambda root: flows.pipeline.run_stage.fn("backbone", root, "slurm"),
    "a row of an ablation": lambda root: flows.ablations.run_row.fn(
        "table-2", "no refiner", root / "params.yaml", root, "slurm"
    ),
}


@pytest.mark.parametrize("flow", STARTS)
def test_nothing_runs_on_the_login_node(login_node, flow):
    with disable_run_logger(), pytest.raises(SohesError, match="run on a login node of the cluster"):
        STARTS[flow](login_node)
    assert not (login_node / "ran-here").exists()
    assert not (login_node / ".sohes/logs").exists()


@pytest.mark.parametrize(
    ("here", "said", "passed"),
    [
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000", "SOHES_TRACKING": "on"}, {}, ["http://mlflow:5000", "on"]),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}, {"MLFLOW_TRACKING_URI": "http://inside"}, [None, None]),
        ({"MLFLOW_TRACKING_URI": "postgresql://me:secret@here/mlflow", "SOHES_TRACKING": "off"}, {}, [None, "off"]),
        ({}, {}, [None, None]),
    ],
)
@pytest.mark.parametrize("flow", ["a stage", "a row of an ablation"])
def test_jobs_record_where_the_flow_does_unless_the_profile_says_otherwise(
    login_node, monkeypatch, flow, here, said, passed
):
    names = ("MLFLOW_TRACKING_URI", "SOHES_TRACKING")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    path = login_node / "infra/launch/slurm.yaml"
    path.write_text(path.read_text().replace("environment: {}", f"environment: {said}"))
    asked: list[dict[str, str]] = []

    def launched(*_, environment, **__):
        asked.append(environment)
        raise SystemExit

    monkeypatch.setattr(flows.cluster, "run_tasks", launched)
    monkeypatch.setattr(flows.ablations, "run_tasks", launched)
    with disable_run_logger(), pytest.raises(SystemExit):
        STARTS[flow](login_node)
    assert [asked[0].get(name) for name in names] == passed
