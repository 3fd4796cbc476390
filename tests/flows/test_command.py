import argparse
import errno
from pathlib import Path

import httpx
import pytest

from flows.command import add_options, exit_code, failure, why
from sohes.errors import SohesError, TemporaryError
from sohes.launch import Outcome

DVC = "ERROR: failed to reproduce 'pull': failed to run: python -m sohes pull, exited with"
SENTENCE = "sohes: no such folder: x"


def raises(error):
    def work():
        raise error

    return work


def test_how_a_command_ends(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(raises(SohesError("no dvc.yaml in here: go there"))) == 1
    assert capsys.readouterr().err == "sohes: no dvc.yaml in here: go there\n"
    assert exit_code(raises(TemporaryError("the server is down"))) == 75
    assert exit_code(raises(OSError(errno.ENOSPC, "full"))) == 1
    assert capsys.readouterr().err.splitlines()[1].startswith("sohes: the disk is full")
    with pytest.raises(ZeroDivisionError):
        exit_code(raises(ZeroDivisionError()))
    assert exit_code(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "sohes: interrupted\n"


def test_a_server_that_is_gone_is_a_sentence_and_whoever_is_asked_to_end_ends(capsys):
    assert exit_code(raises(httpx.ConnectError("connection refused"))) == 75
    said = capsys.readouterr().err
    assert said.startswith("sohes: Prefect's server does not answer any more (connection refused): run the same")

    def never_there() -> None:
        try:
            raise httpx.ConnectError("connection refused")
        except httpx.ConnectError as error:
            raise TemporaryError("Prefect does not answer: start that server") from error

    assert exit_code(never_there) == 75
    assert capsys.readouterr().err == "sohes: Prefect does not answer: start that server\n"

    def ended_together() -> None:
        try:
            raise SystemExit(143)
        finally:
            raise httpx.ConnectError("connection refused")

    with pytest.raises(SystemExit) as ended:
        exit_code(ended_together)
    assert ended.value.code == 143
    assert not capsys.readouterr().err


def test_the_options():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert vars(parser.parse_args([])) == {"launch": None, "root": Path()}
    assert vars(parser.parse_args(["--launch", "slurm", "--root", "there"])) == {
        "launch": "slurm",
        "root": Path("there"),
    }


def test_why_prefers_the_stages_own_words_to_dvcs():
    assert why(("Running stage 'pull':", SENTENCE, f"{DVC} 1")) == "no such folder: x"
    assert why(("Traceback", "ZeroDivisionError", "", f"{DVC} 1")) == "ZeroDivisionError"
    missing = "ERROR: failed to reproduce 'report': [Errno 2] No such file or directory: 'metrics/x.json'"
    assert why((missing, "")) == missing
    assert why(()) == "it said nothing"
    lost = "sohes: process 1 of the 2 that train together lost another, which was killed: run it again"
    assert why((SENTENCE, lost)) == why((lost, SENTENCE)) == "no such folder: x"
    assert why((lost, "Traceback", "===")).startswith("process 1 of the 2")
    assert why(("  traceback : Signal 9 (SIGKILL) received by PID 7", "=====")).startswith("traceback : Signal 9")


@pytest.mark.parametrize(
    ("code", "lines", "may_pass"),
    [
        (1, (SENTENCE,), False),
        (255, (SENTENCE, f"{DVC} 1"), False),
        (255, ("Usage: sohes pull [OPTIONS]", "No such option: --wheels", f"{DVC} 2"), False),
        (75, ("sohes: https://here: the connection failed, 9 times in a row",), True),
        (255, ("sohes: https://here: the connection failed, 9 times in a row", f"{DVC} 75"), True),
        (255, ("sohes: interrupted", f"{DVC} 130"), True),  # by whoever ends jobs on that machine
        (-9, ("Running stage 'pull':",), True),
        (1, ("Traceback", "ZeroDivisionError"), True),
        (
            1,
            (SENTENCE, "  exitcode  : 75 (pid: 8)", "Root Cause", "  exitcode  : 1 (pid: 9)", "=="),
            False,
        ),
        (1, (SENTENCE, "  exitcode  : 1 (pid: 8)", "Root Cause", "  exitcode  : -9 (pid: 9)  (SIGKILL)", "=="), True),
        (1, ("Slurm says NODE_FAIL of job 7",), True),
        (1, ("note: compiling functions", "Slurm says NODE_FAIL of job 7"), True),
        (1, (), True),
    ],
)
def test_only_what_the_user_alone_can_fix_is_final(code, lines, may_pass):
    error = failure("stage pull", Outcome(code, Path("pull.log"), lines))
    assert isinstance(error, TemporaryError) == may_pass
    assert str(error) == f"stage pull failed: {why(lines)} (log: pull.log)"
