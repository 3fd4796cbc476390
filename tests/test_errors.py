import io
import sys

import pytest

from sohes.errors import print_any_name


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
