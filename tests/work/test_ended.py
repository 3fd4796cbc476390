import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORK = """
import pathlib, sys, time
from sohes.work.ended import clean_up_when_ended
clean_up_when_ended()
try:
    pathlib.Path("started").touch()
    time.sleep(60)
finally:
    print("so long", flush=True)
    print("so long", file=sys.stderr, flush=True)
    pathlib.Path("cleaned").touch()
"""


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_cleans_up_and_its_exit_code_names_the_signal(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", WORK], cwd=tmp_path)
    wait_for(tmp_path / "started")
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    assert (tmp_path / "cleaned").exists()


def test_it_cleans_up_though_its_terminal_is_gone(tmp_path, in_terminal):
    process, close = in_terminal("-c", WORK, cwd=tmp_path)
    wait_for(tmp_path / "started")
    close()
    assert process.wait(30) == 128 + signal.SIGHUP
    assert (tmp_path / "cleaned").exists()


def test_what_was_started_to_outlive_its_terminal_does(tmp_path):
    work = WORK.replace("time.sleep(60)", "time.sleep(1)")
    process = subprocess.Popen(["nohup", sys.executable, "-c", work], cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "started")
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
