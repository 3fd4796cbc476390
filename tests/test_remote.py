"""DVC's remote on S3: what one checkout pushes another pulls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def dvc(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_whatever_a_stage_makes_is_pushed(repository):
    """git ignores all of it, so an output that DVC does not keep would be nowhere but here."""
    for stage in yaml.safe_load((repository / "dvc.yaml").read_text())["stages"].values():
        assert all(isinstance(out, str) for kind in ("outs", "metrics", "plots") for out in stage.get(kind, []))


def test_labels_models_and_metrics_travel_between_two_checkouts(s3, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run(["git", "init", "-q", str(here)], check=True)
    dvc("init", "-q", cwd=here)
    dvc("remote", "add", "--default", "store", "s3://photos/dvc", cwd=here)
    dvc("remote", "modify", "store", "endpointurl", s3.url, cwd=here)
    (here / "in.txt").write_text("x")
    (here / "dvc.yaml").write_text(
        "stages:\n  explore:\n    cmd: mkdir -p labels && cp in.txt labels/a.parquet && cp in.txt labels/b.json\n"
        "    deps: [in.txt]\n    outs: [labels]\n"
        "  instruct:\n    cmd: cp labels/b.json model.safetensors && echo 1 > metrics.json\n"
        "    deps: [labels]\n    outs: [model.safetensors]\n    metrics: [metrics.json]\n"
    )
    dvc("repro", "-q", cwd=here)
    dvc("push", cwd=here)
    subprocess.run(["git", "add", "."], cwd=here, check=True)
    subprocess.run(["git", "commit", "-qm", "Labels"], cwd=here, check=True)
    subprocess.run(["git", "clone", "-q", str(here), str(there)], check=True)
    assert not (there / "labels").exists()
    assert not (there / "metrics.json").exists()
    dvc("pull", cwd=there)
    assert {p.name: p.read_bytes() for p in (there / "labels").iterdir()} == {
        p.name: p.read_bytes() for p in (here / "labels").iterdir()
    }
    assert (there / "model.safetensors").read_text() == "x"
    assert (there / "metrics.json").read_text() == "1\n"
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=there, capture_output=True, text=True
    )
    assert status.stdout.strip() == "{}"  # and nothing has to be run there
    assert "hush-hush" not in "".join(p.read_text() for p in (here / ".dvc").glob("config*"))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hush-hush"  # credentials come from the environment alone
