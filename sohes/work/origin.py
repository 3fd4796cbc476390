"""What a piece of work starts from: params, code and inputs, to be compared with what is there at its end.

DVC reads all three after a command has ended and records the outputs under what it finds then. Work that ignored a
change would be recorded under params or inputs that it never saw, and would be reused whenever these come back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from sohes.errors import SohesError, TemporaryError
from sohes.params import Params
from sohes.work.files import digest_file
from sohes.work.identity import source_files

Check = Callable[[], None]
Stamps = dict[Path, tuple[int, int] | None]


def unchecked() -> None:
    """No check, for callers that record nothing."""


class Origin:
    """What a piece of work began with; `check` compares it with what is there now.

    what: the work in a word.  values: read from `file` by `load`; only the seed and `sections` count.
    code: source files, compared by content.  inputs: files and folders, compared by size and time of change.
    unfinished: the folder of its finished parts. They are removed if an input was replaced: they are named after the
    inputs, and nobody knows which of the two they have seen.
    """

    def __init__(
        self,
        what: str,
        values: Params,
        file: Path,
        *,
        sections: Sequence[str],
        code: Iterable[Path],
        inputs: Iterable[Path],
        load: Callable[[Path], Params],
        unfinished: Path | None = None,
    ) -> None:
        self._what, self._file, self._load, self._unfinished = what, file, load, unfinished
        self._sections = ("seed", *sections)
        self._values = self._of(values)
        self._code = {path: digest_file(path) for path in code}
        self._inputs = tuple(inputs)
        self._stamps = stamps(self._inputs)

    def check(self) -> None:
        """TemporaryError, which names what is no longer as it was."""
        for section in self._changed_sections():
            self._refuse(f"{section} in {self._file}")
        for path, digest in self._code.items():
            if not path.exists() or digest_file(path) != digest:
                self._refuse(str(path))
        now = stamps(self._inputs)
        if now != self._stamps:
            if self._unfinished is not None:
                shutil.rmtree(self._unfinished, ignore_errors=True)
            before = self._stamps
            self._refuse(str(min(p for p in now.keys() | before.keys() if now.get(p) != before.get(p))))

    def _of(self, values: Params) -> dict[str, object]:
        return values.model_dump(mode="json", include=set(self._sections))

    def _changed_sections(self) -> list[str]:
        try:
            now = self._of(self._load(self._file))
        except (SohesError, OSError):  # gone, or half written
            return ["a number"]
        return [name for name in self._sections if now[name] != self._values[name]]

    def _refuse(self, changed: str) -> None:
        raise TemporaryError(
            f"{changed} changed while {self._what} ran, which began without the change: nothing is recorded, run the "
            "same command again"
        )


def stamps(paths: Iterable[Path]) -> Stamps:
    """(bytes, ns of the last change) of each file, also below folders; None for a path where nothing is."""
    return {file: _stamp(file) for path in paths for file in _files(path)}


def code_of(*modules: str, unwatched: Iterable[str] = ()) -> list[Path]:
    """The source files of modules and of what they import, sorted. unwatched: packages that count as not imported."""
    return sorted(source_files(modules, ignore=unwatched).values())


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    seen: set[Path] = set()
    for folder, names, files in os.walk(path, followlinks=True):
        here = Path(folder).resolve()
        names[:] = [] if here in seen else [name for name in names if name != "__pycache__"]
        yield from (Path(folder, name) for name in files if here not in seen)
        seen.add(here)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
