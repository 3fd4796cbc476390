"""The most that was held is this process's own; that freed memory is used again is told by the pages that come."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from sohes.work.memory import keep_freed_memory, peak_bytes, peak_bytes_of_children

# A buffer like a training step's, made and freed again and again; its pages are counted from the second time on.
WORK = """
import resource
import numpy as np
import sohes.__main__ as command
from sohes.bench.own_process import in_own_process
from sohes.work.memory import keep_freed_memory
from sohes.work.pool import run_shards


def work(*shard):
    for step in range(10):
        if step == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.empty(2**26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def run_command():
    command.main = lambda: print(work())
    command.start()


if __name__ == "__main__":
    {line}
"""
USUAL = "print(work())"
WAYS = {
    "asked for": "print(keep_freed_memory() and work())",
    "command": "run_command()",
    "workers": "print(max(run_shards(work, [(0, [0]), (1, [0])], workers=2, description='')))",
    "benchmark": "print(in_own_process(work))",
}


def pages(line: str, folder: Path) -> int:
    """How many pages the kernel brings in a process of its own that runs a line."""
    script = folder / "script.py"
    script.write_text(WORK.replace("{line}", line))
    small_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run([sys.executable, str(script)], env=small_pages, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return int(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return pages(USUAL, tmp_path_factory.mktemp("usual"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
@pytest.mark.parametrize("way", WAYS)
def test_what_is_freed_is_used_again_without_the_kernel(usual, tmp_path, way):
    assert usual > 1000  # or this C library keeps it anyway, and the module is not needed
    assert pages(WAYS[way], tmp_path) < usual / 10


def test_where_the_c_library_cannot_nothing_happens(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # without the function
    assert keep_freed_memory() is False
    for error in (OSError, TypeError):
        monkeypatch.setattr("ctypes.CDLL", Mock(side_effect=error))
        assert keep_freed_memory() is False


def test_the_peak_is_that_of_this_process_and_not_of_the_one_that_started_it():
    """Linux gives a new process the peak of the old one, as `ru_maxrss` says."""
    line = "from sohes.work.memory import peak_bytes; print(peak_bytes())"
    np.ones(2**28, np.uint8)  # and freed again
    assert peak_bytes() > 2**28
    started = int(subprocess.run([sys.executable, "-c", line], capture_output=True, check=True).stdout)
    assert 2**22 < started < 2**27


def test_the_peak_of_a_child_that_has_ended():
    subprocess.run([sys.executable, "-c", "b'1' * 2**28"], check=True)
    assert peak_bytes_of_children() > 2**28


@pytest.mark.parametrize("status", [None, "Name: python\nVmPeak: 12 kB\n"])
def test_without_proc_the_systems_figure_is_taken(monkeypatch, tmp_path, status):
    if status:
        (tmp_path / "status").write_text(status)
    monkeypatch.setattr("sohes.work.memory.Path", lambda path: tmp_path / Path(path).name)
    assert peak_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 2**10
    )
