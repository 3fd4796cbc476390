"""The process that the `sohes` command is: it ends at once, but not before what is to be done at its end."""

import os
import subprocess
import sys

import pytest

# A command in the place of the real one: it leaves work for the end of the process, and something to be written.
SCRIPT = """
import atexit, sys, threading, time
import sohes.__main__ as command

def work():
    atexit.register(lambda: print("written at the end"))
    threading.Thread(target=lambda: (time.sleep(0.3), print("of a thread"))).start()
    print("of the command")
    {ending}

class Late:
    def __del__(self):
        print("taken apart")

late = Late()
command.main = work
command.start()
"""


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(None)", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(143)", 143, ""),
        ("pass", 1, ""),  # main always raises SystemExit; if it did not, that would be a fault
        ("sys.exit('in words')", 1, "in words"),
        ("1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_the_shell_gets_the_code_and_everything_that_was_written(tmp_path, ending, code, told):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending=ending)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["of the command", "of a thread", "written at the end"]
    assert ("taken apart" in lines) == (ending == "sys.exit('in words')")  # only this one is left to the interpreter
    assert told in done.stderr


@pytest.mark.parametrize("said", [None, "ACTIVE"])
def test_threads_of_every_command_sleep_while_they_wait_unless_the_shell_says_otherwise(tmp_path, said):
    script = "import os, sohes.__main__ as c; c.main = lambda: print(os.environ['OMP_WAIT_POLICY']); c.start()"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if said is None else {"OMP_WAIT_POLICY": said}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == (said or "PASSIVE")


def test_a_reader_that_has_gone_is_no_success(tmp_path):
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(ending="sys.exit(0)")],
        cwd=tmp_path, env=buffered, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 120  # the interpreter's own code for that
    assert "BrokenPipeError" in done.stderr


def test_who_waited_from_before_the_start_is_called_too(tmp_path):
    script = "import atexit\natexit.register(lambda: print('measured'))\n" + SCRIPT.format(ending="sys.exit(3)")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "measured" in done.stdout.splitlines()


def test_a_closed_stream_is_no_fault(tmp_path):
    command = f"{sys.executable} -m sohes --help >&- 2>{tmp_path}/told"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == ""


def test_both_ways_to_call_it_end_alike(repository):
    text = (repository / "pyproject.toml").read_text()
    assert 'sohes = "sohes.__main__:start"' in text
