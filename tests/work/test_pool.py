import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.work.pool import default_workers, jobs_of, plan_shards, run_shards

# Workers live in a module of their own: a spawned process imports them by name.
WORKERS = """
import os, signal, time
from pathlib import Path
from sohes.work.pool import report_compiling, report_images
from sohes.errors import SohesError

def total(shard):
    report_images(len(shard[1]))
    return shard[0], sum(shard[1]), os.getpid(), os.environ.get("OMP_NUM_THREADS")

def dies(folder, shard):
    if shard[0] == 1:
        while not (folder / "0").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(shard[0])).touch()

def complains(shard):
    raise SohesError(f"shard {shard[0]} has trouble")

def compiles(shard):
    report_compiling()
    return shard[0]

def sleeps(folder, shard):
    (folder / str(os.getpid())).touch()
    time.sleep(60 if shard[0] else 0)
"""


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = f"workers_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(tmp_path)
    return __import__(name)


@pytest.mark.parametrize("processes", [0, 2])
def test_that_processes_compile_is_said_once(workers, processes, monkeypatch, capfd) -> None:
    monkeypatch.setattr("sohes.work.pool._told", False)
    shards = [(k, [k]) for k in range(4)]
    assert run_shards(workers.compiles, shards, workers=processes, description="x") == [0, 1, 2, 3]
    run_shards(workers.compiles, shards, workers=processes, description="x")
    assert capfd.readouterr().err.count("note: compiling functions, which takes up to a minute") == 1


def test_a_plan_cuts_in_order() -> None:
    assert plan_shards([5, 3, 9, 1, 2], 2) == [[5, 3], [9, 1], [2]]
    assert plan_shards([], 2) == []
    with pytest.raises(ValueError, match="got 0"):
        plan_shards([1], 0)


def test_jobs_hold_neighbouring_shards_and_are_the_same_whichever_are_finished():
    assert jobs_of([0, 1, 2, 3, 4], 1) == [range(n, n + 1) for n in range(5)]
    everything = jobs_of(range(11_100), 12)
    assert len(everything) == 925
    assert sorted(shard for job in everything for shard in job) == list(range(11_100))
    assert jobs_of([5, 13, 14, 11_099], 12) == [everything[0], everything[1], everything[-1]]
    assert jobs_of(range(11_101), 12)[-1] == range(11_100, 11_112)  # the command leaves out what does not exist
    assert jobs_of([], 12) == []


def test_workers_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "3")
    assert default_workers() == 3
    monkeypatch.setenv("SOHES_WORKERS", "many")
    with pytest.raises(SohesError, match="got 'many'"):
        default_workers()
    monkeypatch.delenv("SOHES_WORKERS")
    assert default_workers() >= 1


def test_without_a_pool_shards_run_here(workers) -> None:
    results = run_shards(workers.total, [(4, [1, 2]), (2, [3])], workers=0, description="sum")
    assert [result[:3] for result in results] == [(4, 3, os.getpid()), (2, 3, os.getpid())]
    assert run_shards(workers.total, [], workers=8, description="nothing") == []


def test_a_pool_returns_results_in_order_and_works_on_one_thread_each(workers, monkeypatch, capfd) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    results = run_shards(workers.total, [(k, [k, 1]) for k in range(5)], workers=2, description="sum")
    assert [result[:2] for result in results] == [(k, k + 1) for k in range(5)]
    assert os.getpid() not in {result[2] for result in results}
    assert {result[3] for result in results} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "10/10" in capfd.readouterr().err


def test_a_dead_worker_is_one_sentence_and_finished_shards_stay(workers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(SohesError, match=r"labels: a worker process died.* of 3 shards are finished and kept"):
        run_shards(
            partial(workers.dies, tmp_path / "out"), [(k, [k]) for k in range(3)], workers=2, description="labels"
        )
    assert (tmp_path / "out/0").exists()


def test_what_nobody_wrote_is_not_said_to_be_kept(workers, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    worker = partial(workers.dies, tmp_path / "out")
    with pytest.raises(SohesError, match=r"a worker process died, .*; run the same command again, with fewer"):
        run_shards(worker, [(k, [k]) for k in range(3)], workers=2, description="x", kept=False)


@pytest.mark.parametrize("count", [0, 2])
def test_an_error_of_a_worker_is_raised_as_it_is(workers, count: int) -> None:
    with pytest.raises(SohesError, match=r"shard \d has trouble"):
        run_shards(workers.complains, [(0, [1]), (1, [2])], workers=count, description="x")


def test_ctrl_c_ends_with_a_sentence_and_no_process_stays(workers, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from functools import partial
from pathlib import Path
from sohes.work.pool import run_shards
from sohes.errors import SohesError
import {workers.__name__} as workers
if __name__ == "__main__":
    try:
        worker = partial(workers.sleeps, Path({str(out)!r}))
        run_shards(worker, [(k, [k]) for k in range(4)], workers=2, description="x")
    except SohesError as error:
        sys.exit(str(error))
"""
    )
    process = subprocess.Popen(
        [sys.executable, script], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    deadline = time.monotonic() + 60
    while len(list(out.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopped by the user; 1 of 4 shards are finished and kept" in errors
    assert "Traceback" not in errors
    for child in out.iterdir():
        assert not Path(f"/proc/{child.name}").exists()
