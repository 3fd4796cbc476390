"""What orchestration costs on a real Slurm: `pytest -s tests/launch/test_overhead.py` prints the figures."""

import json

import pytest

from flows.overhead import measure


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_shards_and_stages_are_measured_on_the_cluster(repository, monkeypatch):
    monkeypatch.chdir(repository)
    result = measure(launch="slurm", shards=4)
    print(json.dumps(result))
    assert result["slurm_stage_overhead_seconds"] > 0
    assert result["slurm_shard_overhead_seconds"] is not None
