import subprocess
import sys
import time
from pathlib import Path

import pytest

from sohes.launch.group import end_group

# A child that takes its time to end, or never does; its parent dies of SIGTERM at once.
CHILD = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(float(sys.argv[1]))
    pathlib.Path("saved").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]).wait()"


@pytest.fixture
def start(tmp_path: Path):
    """Starts a parent with such a child in a folder; returns when the child is ready."""

    def start_parent(seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-c", PARENT, CHILD, str(seconds)]
        parent = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True)
        assert parent.stdout.readline() == b"ready\n"
        return parent

    return start_parent


def test_who_outlives_the_leader_has_its_time_and_no_more_is_waited_for(start, tmp_path):
    parent = start(1)
    began = time.monotonic()
    end_group(parent, 30)
    assert (tmp_path / "saved").exists()
    assert 1 <= time.monotonic() - began < 15
    assert parent.stdout.read() == b""  # nobody is left who could write
    parent.stdout.close()


def test_who_takes_longer_is_killed(start, tmp_path):
    parent = start(60)
    began = time.monotonic()
    end_group(parent, 1)
    assert time.monotonic() - began < 15
    assert parent.stdout.read() == b""
    assert not (tmp_path / "saved").exists()
    parent.stdout.close()


def test_a_group_that_has_ended_is_none_to_wait_for(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()
    began = time.monotonic()
    end_group(process, 30)
    assert time.monotonic() - began < 5


def test_the_first_process_of_a_container_waits_for_no_orphan_that_has_ended(tmp_path):
    """A process that adopts orphans, as a container's first one does; there is nobody else to collect them."""
    script = f"""
import ctypes, subprocess, sys, time
from sohes.launch.group import end_group
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
parent = subprocess.Popen(
    [sys.executable, "-c", {PARENT!r}, {CHILD!r}, "0.5"], stdout=subprocess.PIPE, start_new_session=True
)
parent.stdout.readline()
began = time.monotonic()
end_group(parent, 30)
assert time.monotonic() - began < 15, "it waited for a zombie"
"""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process adopt orphans")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
