"""Folders that are whole or absent: built aside, renamed into place. Standard library only."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that replaces `folder` when the block ends well, and is removed when it does not."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(finished: Path, folder: Path) -> None:
    """Rename a finished folder on the same file system into place, then remove what it replaces."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        finished.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.old")
    folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old)
