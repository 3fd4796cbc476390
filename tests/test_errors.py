import io
import sys

import pytest

from sohes.errors import print_any_name, remark


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_that_lacks_letters_shows_escapes(monkeypatch, encoding):
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding, errors="strict"))
    print_any_name()
    for stream in (sys.stdout, sys.stderr):
        print("wrote é 写 \udcff", file=stream, flush=True)
        assert stream.buffer.getvalue().endswith(b"\\udcff\n")


def test_what_else_stands_for_a_terminal_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)  # closed by the shell
    print_any_name()


def test_only_what_ends_a_command_begins_as_its_last_sentence_does(repository, capsys):
    """`flows.command` takes such a line for the reason why a command ended."""
    ends = {"cli.py", "view.py", "command.py", "__init__.py"}  # `view` shows its errors where it ends
    sources = [path for folder in ("sohes", "flows") for path in (repository / folder).rglob("*.py")]
    assert {path.name for path in sources if '"sohes: ' in path.read_text()} <= ends
    remark("the cup is empty")
    assert capsys.readouterr().err == "note: the cup is empty\n"
