import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sohes.params import Params
from sohes.work import cost
from sohes.work.cost import measured, read_costs, total


@pytest.fixture
def params(tiny_params: dict) -> Params:
    return Params.model_validate(tiny_params)


def records(root: Path) -> list[dict]:
    finished = root.glob(".sohes/cost/*/[!.]*.json")  # a kill can leave a hidden one, half written
    return [json.loads(path.read_text()) for path in finished]


def test_time_and_memory_of_a_stage_and_of_its_children(tmp_path, params):
    eat = "x = b'1' * 300_000_000; sum(range(3_000_000))"
    with measured("explore", params, tmp_path):
        subprocess.run([sys.executable, "-c", eat], check=True)
    costs = read_costs(tmp_path)
    assert list(costs) == ["explore"]
    assert 0 < costs["explore"]["processor_seconds"]
    assert 0 < costs["explore"]["seconds"]
    assert costs["explore"]["memory_gib"] > 0.27
    assert costs["explore"]["gpu_memory_gib"] is None or costs["explore"]["gpu_memory_gib"] >= 0
    assert records(tmp_path) == []


def test_a_stage_that_fails_leaves_its_last_cost(tmp_path, params):
    with measured("pull", params, tmp_path):
        pass
    before = read_costs(tmp_path)
    with pytest.raises(ZeroDivisionError), measured("pull", params, tmp_path):
        raise ZeroDivisionError
    assert read_costs(tmp_path) == before


def test_nothing_measured_is_no_cost(tmp_path):
    assert read_costs(tmp_path) == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_a_stage_that_was_stopped_and_run_again_cost_both_attempts(tmp_path, params, error):
    with suppress(error), measured("instruct", params, tmp_path):
        time.sleep(0.3)
        raise error
    assert read_costs(tmp_path) == {}
    with measured("instruct", params, tmp_path):
        time.sleep(0.2)
    assert 0.5 <= read_costs(tmp_path)["instruct"]["seconds"] < 5
    with measured("instruct", params, tmp_path):  # a run of its own
        pass
    assert read_costs(tmp_path)["instruct"]["seconds"] < 0.2


def test_shards_that_ran_by_themselves_are_part_of_their_stage(tmp_path, params):
    for _ in range(3):
        with measured("explore", params, tmp_path, whole=False):
            time.sleep(0.1)
    assert read_costs(tmp_path) == {}
    with measured("explore", params, tmp_path):
        pass
    assert 0.3 <= read_costs(tmp_path)["explore"]["seconds"] < 5


def test_what_ran_with_other_params_or_options_is_no_part_of_it(tmp_path, params):
    other = params.model_copy(update={"seed": 8})
    for values, options in ((other, {}), (params, {"phase": "explore"})):
        with suppress(KeyboardInterrupt), measured("evaluate", values, tmp_path, options=options):
            time.sleep(0.5)
            raise KeyboardInterrupt
    elsewhere = params.model_copy(update={"report": params.report.model_copy(update={"pictures": 1})})
    with measured("evaluate", elsewhere, tmp_path, whole=False):  # no param of this stage
        time.sleep(0.1)
    with measured("evaluate", params, tmp_path):
        pass
    assert 0.1 <= read_costs(tmp_path)["evaluate"]["seconds"] < 0.5
    assert len(records(tmp_path)) == 2  # they wait for their own ends


def test_an_attempt_that_is_killed_counts_with_the_work_of_its_children(tmp_path, tiny_params, kill_when):
    script = """
import json, subprocess, sys, time
from pathlib import Path
from sohes.params import Params
from sohes.work import cost
cost.EVERY = 0.1
work = "import time\\nwhile time.process_time() < 1: pass\\nprint(flush=True); time.sleep(9)"
with cost.measured("correct", Params.model_validate(json.loads(sys.argv[1])), Path.cwd()):
    child = subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.5)
    Path("now").touch()
    time.sleep(60)
"""
    kill_when(tmp_path, "now", [sys.executable, "-c", script, json.dumps(tiny_params)], dict(os.environ))
    (record,) = records(tmp_path)
    assert record["cost"]["processor_seconds"] > 1
    with measured("correct", Params.model_validate(tiny_params), tmp_path):
        pass
    assert read_costs(tmp_path)["correct"]["processor_seconds"] >= record["cost"]["processor_seconds"]


def test_of_processes_that_train_together_the_first_writes(tmp_path, params, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with measured("instruct", params, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_hide_why_a_stage_failed(tmp_path, params, monkeypatch):
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(cost, "write_json", full)
    with pytest.raises(ZeroDivisionError), measured("pull", params, tmp_path):
        raise ZeroDivisionError


def test_memory_is_the_largest_and_time_the_sum():
    first = {"seconds": 1.0, "processor_seconds": 2.0, "memory_gib": 3.0, "gpu_memory_gib": None}
    second = {"seconds": 10.0, "processor_seconds": 20.0, "memory_gib": 0.5, "gpu_memory_gib": 7.0}
    assert total([first, second]) == {
        "seconds": 11.0, "processor_seconds": 22.0, "memory_gib": 3.0, "gpu_memory_gib": 7.0,
    }  # fmt: skip
    assert total([first])["gpu_memory_gib"] is None
