"""Variables of MATLAB files, read in a process of their own: SciPy's reader crashes on some damaged ones."""

from __future__ import annotations

import atexit
import contextlib
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import scipy.io

from sohes.errors import SohesError

_reader: subprocess.Popen | None = None


def read(path: Path, name: str, *, what: str) -> Any:
    """A variable of a MATLAB file, structs as dictionaries. SohesError, with `what` it is not, if there is none."""
    global _reader
    if _reader is None:
        command = [sys.executable, "-m", __name__]  # not multiprocessing, which runs the user's script once more
        _reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert _reader.stdin is not None
    assert _reader.stdout is not None
    try:
        pickle.dump((Path(path).absolute(), name), _reader.stdin)
        _reader.stdin.flush()
        found, problem = pickle.load(_reader.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        found, problem = None, f"it is damaged, and ended its reader ({stop()})"
    if problem is not None:
        raise SohesError(f"{path} is not {what}: {problem}")
    return found


@atexit.register
def stop() -> int | None:
    """End the reader, whose exit code comes back; the next file gets a new one."""
    global _reader
    if _reader is None:
        return None
    ended, _reader = _reader, None
    with contextlib.suppress(BrokenPipeError), ended:  # closes its input, at whose end it stops
        pass
    return ended.wait()


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer (path, name) with (variable, None) or (None, what is wrong), until the questions end."""
    while True:
        try:
            path, name = pickle.load(questions)
        except EOFError:
            return
        answer: tuple[Any, str | None]
        try:
            answer = scipy.io.loadmat(path, simplify_cells=True, variable_names=[name])[name], None
        except Exception as error:  # scipy raises a dozen kinds of exceptions on damaged files
            answer = None, str(error) or type(error).__name__
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it, too; it ends with whoever asks
    serve(sys.stdin.buffer, sys.stdout.buffer)
