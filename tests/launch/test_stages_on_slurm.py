"""A stage of the pipeline as an array on a real Slurm, with a job requeued and one cancelled on the way."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cluster import inputs_digest, missing_shards, run_elsewhere
from flows.graph import is_fresh
from sohes.launch import SlurmProfile, load_profile
from sohes.launch.ledger import Ledger
from sohes.params import Params
from sohes.stages import explore, pull

SMALL = {"nodes": 1, "gpus": 0, "cpus": 1, "memory_gib": 1, "minutes": 5}
IMAGES, SHARDS = int(os.environ.get("SOHES_TEST_IMAGES", "8")), int(os.environ.get("SOHES_TEST_SHARDS", "4"))


def published(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data/pseudo_labels").iterdir())}


@pytest.mark.slurm
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_labels_are_the_same_bytes_after_a_requeue_and_a_cancelled_job(
    slurm, project, tiny_params, tmp_path_factory, repository, monkeypatch
):
    monkeypatch.setenv("SOHES_WORKERS", "1")
    tiny_params["pull"]["scenes"] |= {"train": IMAGES, "eval": 2}
    tiny_params["explore"]["images_per_shard"] = -(-IMAGES // SHARDS)
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    params = Params.model_validate(tiny_params)
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    for root in (project, undisturbed):
        pull.run(params, root)
    explore.run(params, undisturbed)
    (project / "models").mkdir()
    (project / "models/backbone.safetensors").write_bytes(b"not read by handmade features")
    (project / "models/backbone.json").write_text("{}")

    values = load_profile(repository / "infra/launch", "slurm").model_dump()
    values |= {"poll_seconds": 0.5, "shard": SMALL, "whole": SMALL}
    profile = SlurmProfile.model_validate(values)
    environment = {"SOHES_TRACKING": "off", "SOHES_WORKERS": "1", "NUMBA_NUM_THREADS": "1"}
    done: list[str] = []

    def disturb(*_: int) -> None:
        if not done:
            jobs = Ledger(project, "slurm", "explore-shards").submissions[0].jobs
            running = lambda job: slurm.run("squeue", "-h", "-j", job, "-o", "%T").strip() == "RUNNING"  # noqa: E731
            slurm.until(lambda: running(jobs["00000"]) and running(jobs["00001"]), "the first two do not run")
            done.append(jobs["00000"])
            slurm.run("scontrol", "requeue", jobs["00000"])
            slurm.run("scancel", jobs["00001"])

    told: list[str] = []
    run = lambda: run_elsewhere(  # noqa: E731
        "explore", project, profile, environment=environment, on_line=told.append, on_progress=disturb
    )
    first = run()
    assert first.exit_code != 0
    assert "Slurm says CANCELLED" in first.last_lines[-1]
    command = (sys.executable, "-m", "sohes", "explore")
    assert missing_shards(command, "explore", project, {}) == [1]  # the requeued one has ended well
    assert run().exit_code == 0
    assert told[-1] == "explore: 1 shards to do"
    assert published(project) == published(undisturbed)
    assert is_fresh("explore", project)


@pytest.mark.slurm
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_array_by_hand(slurm, project, tiny_params, repository, monkeypatch):
    """The line of docs/cluster.md and of the script itself, with as much of the node as the test's has.

    Four shards of an image each to a job, where the documentation has twelve.
    """
    tiny_params["explore"]["images_per_shard"] = 1
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    pull.run(Params.model_validate(tiny_params), project)
    (project / ".venv").symlink_to(Path(sys.executable).parents[1])
    monkeypatch.chdir(project)
    for name, value in {"SOHES_TRACKING": "off", "SOHES_WORKERS": "1", "PYTHONPATH": str(project)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (line,) = re.findall(r"sbatch --array.*? explore 12\b", (repository / "docs/cluster.md").read_text())
    assert line in (repository / "infra/slurm/shards.sh").read_text()
    small = line.replace("sbatch ", "sbatch --wait --cpus-per-task=1 --mem=1G --time=5 ").replace("12", "4")
    done = subprocess.run(small, shell=True, capture_output=True, text=True, check=False, timeout=240)
    said = "".join(path.read_text() for path in project.glob("slurm-*.out"))
    assert done.returncode == 0, f"{done.stderr}\n{said}"
    assert len(list(project.glob("slurm-*.out"))) == 2  # jobs of 4 of 8 shards
    parts = {path: path.stat().st_mtime_ns for path in project.glob(".sohes/explore/*/*")}
    again = subprocess.run(small, shell=True, capture_output=True, text=True, check=False, timeout=240)
    assert again.stderr.startswith("note: no shard of explore is left: `sohes explore` finishes the stage\n")
    # Slurm starts one job or refuses the empty array, as its version has it; nothing is made either way.
    assert parts == {path: path.stat().st_mtime_ns for path in project.glob(".sohes/explore/*/*")}
    subprocess.run([sys.executable, "-m", "sohes", "explore"], check=True)
    assert len(published(project)) >= 2


def test_a_change_while_it_runs_is_noticed(project, tiny_params):
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    before = inputs_digest("explore", project)
    assert inputs_digest("explore", project) == before
    tiny_params["report"]["pictures"] += 1
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    assert inputs_digest("explore", project) == before  # not a param of this stage
    with (project / "sohes/stages/explore.py").open("a") as file:
        file.write("# a change\n")
    assert inputs_digest("explore", project) != before
