"""Every file below a folder, and every place there that cannot be looked into. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Walk:
    """files: paths below the folder, parts joined by `/`. unread: why a place cannot be looked into, by its path."""

    files: list[str]
    unread: dict[str, str]


def walk(folder: Path, *, leave_out: Path | None = None) -> Walk:
    """All files at any depth, except hidden files and what lies in hidden folders.

    Links to folders are followed, each folder once, so cycles are harmless. A link to nothing counts as a file, unless
    its name has no suffix: then it may stand for a folder, and is unread. leave_out: a folder to skip.
    OSError if `folder` itself cannot be read.
    """
    files: list[str] = []
    unread: dict[str, str] = {}
    root = Path(folder).resolve()
    seen = {str(root)} | ({str(leave_out.resolve())} if leave_out else set())
    waiting = [] if leave_out and root == leave_out.resolve() else [("", str(root))]
    while waiting:
        below, place = waiting.pop()
        try:
            with os.scandir(place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if not below:
                raise
            unread[below] = error.strerror or "unknown error"
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{below}/{entry.name}" if below else entry.name
            try:
                if entry.is_dir():
                    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                    if real not in seen:
                        seen.add(real)
                        folders.append((path, real))
                elif entry.is_symlink() and "." not in entry.name and not Path(entry.path).exists():
                    unread[path] = "a link to nothing"
                else:
                    files.append(path)
            except OSError as error:  # a link whose target cannot be looked at
                unread[path] = error.strerror or "unknown error"
        waiting += reversed(folders)
    return Walk(files, unread)
