import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.evaluate.figures import UNTRAINED, read_details, read_rows, write_figures
from sohes.pipeline import PHASES
from sohes.project import Project

COLUMNS = 100  # of a terminal


def row(ar: float | None) -> dict:
    return {"AR": ar, "AR_S": ar, "AP": ar, "masks_per_image": 61.23456789, "seconds_per_image": 0.123456, "images": 40}


def figures(ar: float | None) -> tuple[dict, dict]:
    """Rows and details of three phases; in the details, 5,000 images."""
    rows = {phase: row(ar) for phase in PHASES}
    images = {"per_image": {str(k): ar for k in range(5000)}} if ar is not None else {}
    return rows, {phase: {"AR": ar, **images} for phase in (UNTRAINED, *PHASES)}


def test_what_is_written_is_read_in_the_order_of_the_phases(tmp_path):
    project = Project(tmp_path)
    rows, details = figures(100 / 3)
    write_figures(project, rows, details)
    assert list(read_rows(project).items()) == list(rows.items())
    assert list(read_details(project)) == [*PHASES, UNTRAINED]
    assert read_details(project) == details


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"phase": "explore", "AR": 1.0}]', r"is damaged \(it is no object\)"),
        ('{"explore": 1.0}', r"is damaged \(a phase has no figures\)"),
        ('{"explore": {"AR"', r"is damaged \(not valid JSON: .*\)"),
        ("\0", r"is damaged \(not valid JSON: .*\)"),
    ],
)
@pytest.mark.parametrize(("name", "read"), [("evaluate", read_rows), ("evaluate_details", read_details)])
def test_a_file_that_is_old_or_damaged_names_the_stage_to_run_again(tmp_path, text, words, name, read):
    path = Project(tmp_path).metrics(name)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(SohesError, match=rf"{name}\.json {words}: run `sohes evaluate` again"):
        read(Project(tmp_path))


@pytest.fixture(scope="module")
def dvc_project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A repository of the real dvc.yaml and params.yaml, scored, and scored again since the last commit."""
    root = tmp_path_factory.mktemp("dvc")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(repository / name, root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    dvc(root, "init", "-q")
    write_figures(Project(root), *figures(33.123456789))
    for phase in ("instruct", "correct"):
        Project(root).metrics(phase).write_text(json.dumps([{"step": 10, "loss": 2.5}, {"step": 20, "loss": 1.5}]))
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", "commit", "-qm", "x"], cwd=root, check=True)
    write_figures(Project(root), *figures(34.123456789))
    return root


def dvc(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "command",
    [
        ("metrics", "show"),
        ("metrics", "diff"),
        ("metrics", "diff", "--targets", "metrics/evaluate.json"),
        ("exp", "show", "--no-pager", "--only-changed", "--drop", "data|metrics|models|predictions|sohes"),
    ],
)
def test_what_dvc_shows_of_three_phases_fits_a_terminal(dvc_project, command):
    shown = dvc(dvc_project, *command)
    for phase in PHASES:
        assert f"{phase}.AR" in shown
    assert "34.12" in shown
    assert max(map(len, shown.splitlines())) <= COLUMNS


def test_dvc_plots_the_recall_by_phase_and_the_losses(dvc_project):
    shown = json.loads(dvc(dvc_project, "plots", "show", "--json"))
    assert not shown.get("errors")
    assert set(shown["data"]) == {"recall by phase", "loss by step"}


def test_images_without_annotations_leave_dvc_the_number_of_masks(tmp_path):
    write_figures(Project(tmp_path), *figures(None))
    shown = json.loads(Project(tmp_path).metrics("recall").read_text())
    assert [shown[phase] for phase in PHASES] == [{"masks": 61.23456789}] * 3
