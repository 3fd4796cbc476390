"""Read untrusted archives in place. Nothing is extracted to disk, so no member can escape its folder.

Folders are skipped; links and devices are reported. Sizes are checked before unpacking and again while unpacking.
"""

from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError, first_sentence

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBER_BYTES = 2**28  # 256 MiB: far more than a photograph or the annotations of one image
MAX_RATIO = 100  # unpacked to packed bytes; photographs are near 1, JSON near 10
_NO_FILE = "a link or a device in the archive, not a file: pack the photograph itself"

# What the readers raise on damaged archives; ValueError and LookupError on names that are no text, or none.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, LookupError,
    RuntimeError, TypeError, ArithmeticError, AttributeError,
)  # fmt: skip

Member = tuple[str, bytes | UnreadableImage]


def iter_members(
    path: Path, wanted: Callable[[str], bool], *, max_member_bytes: int = MAX_MEMBER_BYTES, max_ratio: int = MAX_RATIO
) -> Iterator[Member]:
    """(name, bytes) of the files in a tar (gzipped or not) or zip whose name is `wanted`, in the archive's order.

    A member that is no file, too large, damaged or named with a path outside the archive is an UnreadableImage with the
    reason.
    SohesError if the archive itself is damaged, or unpacks to more than `max_ratio` times its size.
    """
    try:
        if zipfile.is_zipfile(path):
            yield from _iter_zip(path, wanted, max_member_bytes)
        else:
            yield from _iter_tar(path, wanted, max_member_bytes, max_ratio)
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a problem of the disk, not of the archive; EINVAL: a place before its beginning
        detail = first_sentence(error)
        raise SohesError(f"the archive {path.name} is damaged ({detail}): remove it and pull again") from None


def iter_numbered(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[int, str, bytes | UnreadableImage]]:
    """As `iter_members`, each after its place among all members, from 1: it does not depend on what is `wanted`."""
    number = 0

    def counted(name: str) -> bool:
        nonlocal number
        number += 1
        return wanted(name)

    for name, data in iter_members(path, counted):  # each is yielded before the next is asked for
        yield number, name, data


def _iter_tar(path: Path, wanted: Callable[[str], bool], max_member_bytes: int, max_ratio: int) -> Iterator[Member]:
    """Read front to back in one pass, because SA-1B's `.tar` files are gzipped."""
    limit = max_ratio * path.stat().st_size
    unpacked = 0
    with tarfile.open(path, "r|*", errorlevel=0) as tar:
        for member in tar:
            unpacked += member.size
            if unpacked > limit:
                raise SohesError(f"the archive {path.name} unpacks to more than {max_ratio} times its size: refused")
            if member.isdir() or not wanted(member.name):
                continue
            if not member.isreg():
                yield member.name, UnreadableImage(_NO_FILE)
                continue
            if problem := _problem(member.name, member.size, max_member_bytes):
                yield member.name, UnreadableImage(problem)
                continue
            file = tar.extractfile(member)
            assert file is not None
            data = file.read()
            if len(data) != member.size:
                raise tarfile.ReadError(f"it ends inside {member.name}")
            yield member.name, data


def _iter_zip(path: Path, wanted: Callable[[str], bool], max_member_bytes: int) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            link = (member.external_attr >> 16) & 0o170000 == 0o120000
            if member.filename.endswith("/") or not wanted(member.filename):
                continue
            if link:
                yield member.filename, UnreadableImage(_NO_FILE)
                continue
            if problem := _problem(member.filename, member.file_size, max_member_bytes):
                yield member.filename, UnreadableImage(problem)
                continue
            try:
                with archive.open(member) as file:
                    data = file.read(max_member_bytes + 1)
            except _DAMAGE as error:
                yield member.filename, UnreadableImage(f"damaged in the archive: {error}")
                continue
            # The size in the directory may be a lie (zip bomb), so check the real one.
            problem = _problem(member.filename, len(data), max_member_bytes)
            yield member.filename, UnreadableImage(problem) if problem else data


def _problem(name: str, size: int, max_member_bytes: int) -> str | None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        return "its name points outside the archive"
    if size > max_member_bytes:
        return f"it has {size / 2**20:.0f} MiB in the archive, more than an image needs"
    return None
