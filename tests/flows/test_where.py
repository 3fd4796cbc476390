"""Every flow runs its commands where the launch profile says."""

from pathlib import Path

import pytest
import yaml
from prefect.logging import disable_run_logger

import flows.ablations
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


@pytest.mark.parametrize(
    "start",
    [
        lambda root: flows.pipeline.run_stage.fn("backbone", root, "slurm"),
        lambda root: flows.ablations.run_row.fn("table-2", "no refiner", root / "params.yaml", root, "slurm"),
    ],
    ids=["a stage", "a row of an ablation"],
)
def test_nothing_runs_on_the_login_node(login_node, start):
    with disable_run_logger(), pytest.raises(SohesError, match="run on a login node of the cluster"):
        start(login_node)
    assert not (login_node / "ran-here").exists()
    assert not (login_node / ".sohes/logs").exists()
