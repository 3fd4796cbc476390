import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sohes.errors import TemporaryError
from sohes.work.alone import alone, is_first_process

# Holds the lock, with a child that was forked meanwhile, as the workers of a data set are.
HOLDER = """
import os, sys, time
from pathlib import Path
from sohes.work.alone import alone

with alone(Path(sys.argv[1]), "a test"):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_told_who_the_first_is_and_the_next_finds_it_free(tmp_path: Path) -> None:
    lock = tmp_path / "state/correct.lock"
    first = rf"process {os.getpid()} of {socket.gethostname()} is at work on correct already: wait until it ends"
    with alone(lock, "correct"), pytest.raises(TemporaryError, match=first), alone(lock, "correct"):
        pytest.fail("both were at work")
    with pytest.raises(ZeroDivisionError), alone(lock, "correct"):
        _ = 1 / 0
    with alone(lock, "correct"), alone(tmp_path / "state/pull.lock", "pull"):
        pass


def test_a_killed_process_holds_nothing_once_its_workers_have_ended(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TemporaryError, match=f"process {holder.pid} of "), alone(lock, "a test"):
            pytest.fail("both were at work")
        holder.send_signal(signal.SIGKILL)
    before = time.monotonic()
    with alone(lock, "a test", patience=30):
        assert time.monotonic() - before < 30


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_the_first_process_is_the_one_of_rank_0_or_the_only_one(monkeypatch, rank: str | None, first: bool) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first_process() == first
