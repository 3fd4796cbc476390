"""Files that are whole or absent: atomic writes, digests, deterministic JSON. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path in `path`'s folder (made if missing) that replaces `path` when the block ends well.

    The block creates the file itself. On an error the temporary file is removed and `path` is as it was.
    The suffix is kept, since many writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut, since a name that just fits leaves no room: at most 238 bytes, whatever the letters.
    temporary = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:12]}{path.suffix[:16]}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)  # the new name is lost in a power cut unless the folder is flushed too
    finally:
        temporary.unlink(missing_ok=True)


def fitted(name: str, limit: int) -> str:
    """A file's name, or where it has more than `limit` bytes, its beginning and a digest of the whole.

    File systems allow 255 bytes, so `limit` leaves room for what is added to the name.
    """
    data = os.fsencode(name)
    if len(data) <= limit:
        return name
    digest = hashlib.sha256(data).hexdigest()[:12]
    return f"{data[: limit - 13].decode('utf-8', 'ignore')}-{digest}"


def require_writable(folder: Path) -> None:
    """Make the folder if it is missing. OSError if nothing can be written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path: Path | str) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with Path(path).open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def write_file(path: Path | str, content: bytes | str) -> None:
    """Write bytes, or text as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, the same bytes for the same value: sorted keys, UTF-8, no NaN, a final newline."""
    write_file(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
