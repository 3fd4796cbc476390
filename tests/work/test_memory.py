"""Freed memory is used again without the kernel, which is told by the pages that it has to bring."""

import os
import subprocess
import sys

import pytest

from sohes.work.memory import keep_freed_memory

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


@pytest.fixture
def pages(tmp_path):
    """How many pages the kernel brings in a process of its own that runs a line."""

    def count(line: str) -> int:
        script = tmp_path / "script.py"
        script.write_text(WORK.replace("{line}", line))
        small_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=small_pages, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return int(done.stdout.split()[-1])

    return count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
@pytest.mark.parametrize("way", WAYS)
def test_what_is_freed_is_used_again_without_the_kernel(pages, way):
    usual, kept = pages(USUAL), pages(WAYS[way])
    assert usual > 1000  # or this C library keeps it anyway, and the module is not needed
    assert kept < usual / 10


def test_where_the_c_library_cannot_nothing_happens(monkeypatch):
    for library in (object(), lambda: None):
        monkeypatch.setattr("ctypes.CDLL", lambda name, library=library: library)
        assert keep_freed_memory() is False

    def no_library(name):
        raise TypeError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert keep_freed_memory() is False
