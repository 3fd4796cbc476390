"""All stages, as a user runs them: the commands on a tiny profile, DVC, the flow, and real photographs."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sohes.evaluate.figures import read_rows
from sohes.project import Project

pytestmark = pytest.mark.slow

STAGES = ("pull", "backbone", "explore", "instruct", "correct", "evaluate", "report")
FIGURES = ("AR", "AR_S", "AR_M", "AR_L", "AP", "masks_per_image", "seconds_per_image")


ONE_PROCESS = """
import importlib, sys
from pathlib import Path
from sohes.params import load_params
params = load_params(Path("params.yaml"))
for stage in sys.argv[1:]:
    importlib.import_module(f"sohes.stages.{stage}").run(params, Path.cwd())
"""


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...`, which must end well; what it said is in the failure's message."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc.yaml's commands begin with `python`
    # One process instead of a pool of them: each would import everything again for four images.
    variables = {**os.environ, "PATH": path, "SOHES_WORKERS": "1", **environment}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done


def run_stages(folder: Path, params: dict, stages: tuple[str, ...] = STAGES) -> None:
    """All in one process, which imports torch once."""
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    run("-c", ONE_PROCESS, *stages, cwd=folder)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def scores(folder: Path) -> dict[str, dict]:
    """The table without the times, which no two runs share."""
    rows = read_rows(Project(folder))
    return {phase: {k: v for k, v in row.items() if k != "seconds_per_image"} for phase, row in rows.items()}


def test_all_stages_run_and_twice_the_same_seed_gives_the_same_labels_and_scores(tmp_path, tiny_params):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    for stage in STAGES:
        run("-m", "sohes", stage, cwd=first)
    run_stages(second, tiny_params)

    rows = read_rows(Project(first))
    assert list(rows) == ["explore", "instruct", "correct"]
    for row in rows.values():
        assert set(FIGURES) <= set(row)
        assert 0 <= row["AR"] <= 100
        assert row["images"] == 4
        assert row["max_masks"] == tiny_params["evaluate"]["max_masks"]
    assert rows["explore"]["AR"] > 0
    labels = digests(first / "data/pseudo_labels")
    assert len([name for name in labels if name.endswith(".parquet")]) == 2
    assert labels == digests(second / "data/pseudo_labels")
    assert digests(first / "data/images") == digests(second / "data/images")
    assert digests(first / "models") == digests(second / "models")
    assert scores(first) == scores(second)
    assert "instruct" in (first / "reports/index.html").read_text()

    run_stages(second, {**tiny_params, "seed": 1}, ("pull", "explore"))
    assert digests(second / "data/pseudo_labels") != labels


def test_dvc_runs_everything_once_and_the_flow_then_finds_it_fresh(project, tiny_params, monkeypatch):
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    run("-m", "dvc", "repro", cwd=project, SOHES_TRACKING="on")
    assert len(scores(project)) == 3
    assert yaml.safe_load(run("-m", "dvc", "status", "--json", cwd=project).stdout) == {}

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sohes")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(STAGES) < set(runs)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parents = {runs[stage].data.tags["mlflow.parentRunId"] for stage in STAGES}
    assert len(parents) == 1
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    (labels,) = [out["md5"] for out in lock["explore"]["outs"] if out["path"] == "data/pseudo_labels"]
    assert runs["instruct"].data.tags["dvc.data/pseudo_labels"] == labels

    # Only what depends on the change is run again.
    tiny_params["report"]["pictures"] = 1
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    again = run("-m", "dvc", "repro", cwd=project).stdout
    assert "Running stage 'report'" in again
    assert again.count("didn't change, skipping") == 6


def test_the_flow_runs_everything_on_its_own_temporary_server(project, tiny_params):
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    home = project / ".sohes/prefect"
    home.mkdir(parents=True)  # Prefect makes no folder above its own
    environment = {"PREFECT_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[1])}
    told = run("-m", "flows.pipeline", cwd=project, **environment).stderr
    assert told.count("Finished in state Completed") == len(STAGES) + 1
    assert len(scores(project)) == 3
    told = run("-m", "flows.pipeline", cwd=project, **environment).stderr
    assert told.count("Finished in state Cached") == len(STAGES)


def test_a_folder_of_real_photographs_without_annotations(tmp_path, tiny_params):
    from skimage import data, io

    photos = tmp_path / "photos"
    photos.mkdir()
    # These come with scikit-image itself; its other pictures would be downloaded.
    for name in ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "camera"):
        io.imsave(photos / f"{name}.jpg", getattr(data, name)()[::2, ::2], check_contrast=False)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    run("-m", "sohes", "init", "--images", "photos", cwd=tmp_path)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["pull"]["folder"]["eval_fraction"] = 0.34
    run_stages(tmp_path, params)

    rows = scores(tmp_path)
    assert list(rows) == ["explore", "instruct", "correct"]
    assert {row["AR"] for row in rows.values()} == {None}  # nobody has said what is right
    assert rows["explore"]["masks_per_image"] > 0
    assert rows["explore"]["images"] == 2
    run("-m", "sohes", "export", "--out", "labels.json", cwd=tmp_path)
    exported = json.loads((tmp_path / "labels.json").read_text())
    assert len(exported["images"]) == 4
    assert len(exported["annotations"]) > 4
    assert "reports/index.html" in run("-m", "sohes", "table", cwd=tmp_path, COLUMNS="200").stdout
