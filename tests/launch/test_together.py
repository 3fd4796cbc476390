"""A training over the nodes of a Slurm job, whether the launcher starts it or infra/slurm/train.sh does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sohes.launch import together
from sohes.launch.profile import Resources
from sohes.launch.slurm import Command

TRAIN = Resources(nodes=2, gpus=4, cpus=8, memory_gib=8, minutes=5)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch):
    """Sets what srun says to the processes of a job."""

    def be_in(job: int, **more: str) -> None:
        told = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
        for name, value in (told | more).items():
            monkeypatch.setenv(name, value)

    return be_in


def by_hand(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `python -m sohes.launch.together instruct` becomes."""
    became: list[str] = []
    monkeypatch.setattr(together.os, "execv", lambda _, command: became.extend(command))
    monkeypatch.setattr(sys, "argv", ["together", "instruct"])
    together.main()
    return became


def test_by_hand_it_is_the_launchers_command(node, tmp_path, monkeypatch):
    node(1234567, SLURM_GPUS_ON_NODE="4")
    launched = Command((sys.executable, "-m", "sohes", "instruct"), tmp_path, {}, TRAIN)._here()
    assert by_hand(monkeypatch) == launched
    assert launched[1:6] == [
        "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d"
    ]  # fmt: skip
    assert launched[-3:] == ["-m", "sohes", "instruct"]


def test_two_jobs_with_the_same_first_node_meet_at_ports_of_their_own(node, monkeypatch):
    ports = set()
    for job in (41, 42):
        node(job)
        (endpoint,) = [word for word in by_hand(monkeypatch) if word.startswith("--rdzv-endpoint=10.0.0.7:")]
        ports.add(endpoint)
    assert len(ports) == 2


def test_without_gpus_a_node_has_one_process(node, monkeypatch):
    node(41)
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    assert "--nproc-per-node=1" in by_hand(monkeypatch)


def test_the_script_starts_it_on_every_node(tmp_path: Path, repository: Path):
    """With an srun that shows what it was asked for."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$SRUN_CPUS_PER_TASK" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    environment["SLURM_CPUS_PER_TASK"] = "64"
    script = ["bash", str(repository / "infra/slurm/train.sh"), "instruct"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["64", "python", "-m", "sohes.launch.together", "instruct"]
