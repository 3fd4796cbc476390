"""Packs of SA-1B, as class-agnostic ground truth.

Protocol (paper section 4.1): all masks of one pack of some 11,000 images that were not trained on. They are made by a
machine (SAM, checked by people in part), so AP and AR favour what SAM finds. Meta's files have no hierarchy and no
crowds; masks are run lengths in stored pixels. Image ids are the files' own `image_id`.
"""

from __future__ import annotations

import io
import itertools
import json
import lzma
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple, cast

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks, read_sa1b
from sohes.structures import CROWD, ImageRecord

NAME = "sa1b"
INFO = """Get a pack (sa_000000.tar ...) from Meta's SA-1B page, by the signed links of its list. DIR holds:
  sa_1.jpg  sa_1.json ...                (the pack unpacked)
  or sa_000000.tar                       (the pack itself, plain or gzip inside; DIR may be the file, too)"""


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth: files in the order of their numbers, or a tar's in its own order.

    SohesError if DIR holds neither, or both: which images are scored would hang on what happens to be unpacked.
    """
    files, tars = layout.files_below(root, "sa_*.json") if Path(root).is_dir() else [], _tars(root)
    if files and tars:
        raise SohesError(
            f"{root} holds both packs and files out of packs, such as {tars[0].name} and {files[0].name}: name a pack "
            "as --root, or move the packs or the files elsewhere"
        )
    if files:
        return (record(file.read_bytes(), file) for file in files)
    tars = tars or [layout.find(root, "sa_*.json", "*.tar", name=NAME)]
    return itertools.chain.from_iterable(map(_read_tar, tars))


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored, out of the folder or its tars.

    Of a gzip pack, photographs are asked for in the pack's own order: each step back inflates it from its start.
    """
    if Path(root).is_dir() and (place := layout.find_file(root, name=file_name)) is not None:
        return place.read_bytes()
    piece = _pieces(Path(root)).get(file_name)
    if piece is None:
        raise SohesError(f"there is no photograph {file_name} in {root}, or several could be it")
    with _sound(piece.pack):
        if piece.plain:
            with piece.pack.open("rb") as file:
                return _cut(file, piece)
        return _cut(_inflated(piece.pack, os.getpid(), threading.get_ident()), piece)


def _tars(root: Path) -> list[Path]:
    return [Path(root)] if Path(root).is_file() else sorted(Path(root).glob("*.tar"))


def _read_tar(path: Path) -> Iterator[ImageRecord]:
    with _open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                yield record(file.read(), path / member.name)


class _Piece(NamedTuple):
    """Where a file lies in a pack. plain: as it is on disk; else `offset` counts what is inflated."""

    pack: Path
    plain: bool
    offset: int
    size: int


@lru_cache(2)
def _pieces(root: Path) -> dict[str, _Piece]:
    """The files of all packs by name; of several of one name, the first pack's. Cached: a listing reads whole packs."""
    pieces: dict[str, _Piece] = {}
    for path in _tars(root):
        with _open(path) as tar:
            plain = isinstance(tar.fileobj, io.BufferedReader)
            found = {Path(m.name).name: _Piece(path, plain, m.offset_data, m.size) for m in tar if m.isfile()}
        pieces = found | pieces
    return pieces


@lru_cache(2)
def _inflated(path: Path, process: int, thread: int) -> IO[bytes]:
    """What a compressed pack holds, kept open, since whoever opens it inflates it from its start.

    process, thread: whose it is, since two that share an open file would move each other's place in it.
    """
    return cast(IO[bytes], tarfile.open(path, "r:*").fileobj)


def _cut(file: IO[bytes], piece: _Piece) -> bytes:
    file.seek(piece.offset)
    data = file.read(piece.size)
    if len(data) < piece.size:
        raise EOFError("it ends too early")
    return data


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    """SohesError if the pack is damaged, also where that shows only while it is read."""
    with _sound(path), tarfile.open(path, "r:*") as tar:  # gzip is recognised by its first bytes, whatever the name
        yield tar


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """SohesError for whatever reading a damaged pack raises."""
    try:
        yield
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, LookupError) as error:
        raise SohesError(f"{path} cannot be read as a pack of SA-1B ({error}): download it again") from None


def record(data: bytes, path: Path, *, remarks: Remarks | None = None) -> ImageRecord:
    """The ground truth in the bytes of one of SA-1B's JSON files. SohesError names `path` and what is wrong."""
    try:
        found = read_sa1b(json.loads(data), path)
    except (ValueError, RecursionError) as error:
        raise SohesError(f"{path} is not SA-1B JSON: {error}") from None
    if found.image_id < 0:
        raise SohesError(f"{path} is not SA-1B JSON: its image needs a whole number image_id")
    masks = found.masks
    image = {"id": found.image_id, "file_name": found.file_name, "height": masks.height, "width": masks.width}
    names = [f"mask {place} of {found.file_name}" for place in range(1, len(masks) + 1)]
    crowd = [source == CROWD for source in masks.sources]  # `sohes export` writes them
    return coco.record(image, masks.rles, NAME, crowd=crowd, remarks=remarks, names=names)
