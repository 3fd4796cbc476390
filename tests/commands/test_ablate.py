import os
import sys
from pathlib import Path

import pytest

from sohes.bench.launch import bench_launch
from sohes.commands import ablate


@pytest.fixture
def became(monkeypatch):
    """What the process has turned into, instead of doing so."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    return commands


def test_what_drives_dvc_is_a_command_of_the_flows_that_a_person_could_paste(became):
    ablate.ablate("table-6a", row="no refiner", params=Path("mine.yaml"))
    ablate.ablate("table-6a", params=Path("params.yaml"))
    bench_launch(launch="slurm", shards=3)
    python = [sys.executable, "-m"]
    assert became == [
        [*python, "flows.ablate", "table-6a", "--params", "mine.yaml", "--row", "no refiner"],
        [*python, "flows.ablate", "table-6a", "--params", "params.yaml"],
        [*python, "flows.overhead", "--launch", "slurm", "--shards", "3"],
    ]
