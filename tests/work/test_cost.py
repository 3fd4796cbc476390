import subprocess
import sys

import pytest

from sohes.work.cost import measured, read_costs


def test_time_and_memory_of_a_stage_and_of_its_children(tmp_path):
    eat = "x = b'1' * 300_000_000; sum(range(3_000_000))"
    with measured("explore", tmp_path):
        subprocess.run([sys.executable, "-c", eat], check=True)
    costs = read_costs(tmp_path)
    assert list(costs) == ["explore"]
    assert 0 < costs["explore"]["processor_seconds"]
    assert 0 < costs["explore"]["seconds"]
    assert costs["explore"]["memory_gib"] > 0.27
    assert costs["explore"]["gpu_memory_gib"] is None or costs["explore"]["gpu_memory_gib"] >= 0


def test_a_stage_that_fails_leaves_its_last_cost(tmp_path):
    with measured("pull", tmp_path):
        pass
    before = read_costs(tmp_path)
    with pytest.raises(ZeroDivisionError), measured("pull", tmp_path):
        raise ZeroDivisionError
    assert read_costs(tmp_path) == before


def test_nothing_measured_is_no_cost(tmp_path):
    assert read_costs(tmp_path) == {}
