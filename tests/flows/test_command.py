import argparse
from pathlib import Path

from flows.command import add_options, exit_code
from sohes.errors import SohesError


def raises(error):
    def work():
        raise error

    return work


def test_how_a_command_ends(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(raises(SohesError("no dvc.yaml in here: go there"))) == 1
    assert capsys.readouterr().err == "sohes: no dvc.yaml in here: go there\n"
    assert exit_code(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "sohes: interrupted\n"


def test_the_options():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert vars(parser.parse_args([])) == {"launch": None, "root": Path()}
    assert vars(parser.parse_args(["--launch", "slurm", "--root", "there"])) == {
        "launch": "slurm",
        "root": Path("there"),
    }
