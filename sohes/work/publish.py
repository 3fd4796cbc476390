"""Folders that are whole or absent: built aside, renamed into place. Standard library only.

A folder may be a link, on another file system too: what it points to is replaced, and the link stays.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sohes.errors import SohesError
from sohes.work.files import require_writable


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that replaces `folder` when the block ends well, and is removed when it does not."""
    temporary = _beside(folder, uuid.uuid4().hex[:12])
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unfinished(folder: Path) -> Path:
    """Where to build what will replace `folder`: on the same file system, always at the same place."""
    return _beside(folder, "unfinished")


def require_replaceable(folder: Path) -> None:
    """SohesError or OSError if `publish_folder` could not put anything at `folder`; makes the folder above it."""
    place = _resolved(folder)
    if place.exists() and not place.is_dir():
        raise SohesError(f"{folder} is not a folder: remove it, or move it away")
    if place.is_mount():
        raise SohesError(f"{folder} is a mounted disk, which cannot be replaced as a whole: mount it one folder higher")
    require_writable(place.parent)


def publish_folder(finished: Path, folder: Path) -> None:
    """Rename a finished folder into place and remove what it replaces; on another file system a copy is renamed."""
    place = _resolved(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        _swap(finished, place)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = _beside(place, uuid.uuid4().hex[:12])
    try:
        shutil.copytree(finished, copy)
        _swap(copy, place)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(finished)


def _swap(new: Path, place: Path) -> None:
    """Rename `new` to `place`; on an error both are as they were."""
    if not place.exists():
        new.rename(place)
        return
    old = _beside(place, f"{uuid.uuid4().hex[:12]}.old")
    place.rename(old)
    try:
        new.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old)


def _resolved(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _beside(folder: Path, what: str) -> Path:
    place = _resolved(folder)
    return place.with_name(f".{place.name}.{what}")
