"""Packs of SA-1B, as class-agnostic ground truth.

Protocol (paper section 4.1): all masks of one pack of some 11,000 images that were not trained on. They are made by a
machine (SAM, checked by people in part), so AP and AR favour what SAM finds. The files have no hierarchy and no crowds;
masks are run lengths in stored pixels. Image ids are the files' own `image_id`.
"""

from __future__ import annotations

import glob
import itertools
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks, read_sa1b
from sohes.structures import ImageRecord

NAME = "sa1b"
INFO = """Get a pack (sa_000000.tar ...) from Meta's SA-1B page, by the signed links of its list. DIR holds:
  sa_1.jpg  sa_1.json ...                (the pack unpacked)
  or sa_000000.tar                       (the pack itself, plain or gzip inside; DIR may be the file, too)"""


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth: files in the order of their numbers, or a tar's in its own order."""
    files = layout.files_below(root, "sa_*.json") if Path(root).is_dir() else []
    if files:
        return (record(file.read_bytes(), file) for file in files)
    tars = _tars(root) or [layout.find(root, "sa_*.json", "*.tar", name=NAME)]
    return itertools.chain.from_iterable(map(_read_tar, tars))


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored, out of the folder or its tars."""
    if (Path(root) / file_name).is_file():
        return (Path(root) / file_name).read_bytes()
    if Path(root).is_dir():
        for place in layout.files_below(root, glob.escape(file_name)):
            return place.read_bytes()
    for path in _tars(root):
        member = _members(path).get(file_name)
        if member is not None:
            with _open(path) as tar:
                file = tar.extractfile(member)
                assert file is not None
                return file.read()
    raise SohesError(f"there is no photograph {file_name} in {root}")


def _tars(root: Path) -> list[Path]:
    return [Path(root)] if Path(root).is_file() else sorted(Path(root).glob("*.tar"))


def _read_tar(path: Path) -> Iterator[ImageRecord]:
    with _open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".json"):
                file = tar.extractfile(member)
                assert file is not None
                yield record(file.read(), path / member.name)


@lru_cache(2)
def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    """The files of a tar by name; cached, because listing them reads the whole tar."""
    with _open(path) as tar:
        return {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}


@contextmanager
def _open(path: Path) -> Iterator[tarfile.TarFile]:
    """SohesError if the pack is damaged, also where that shows only while it is read."""
    try:
        with tarfile.open(path, "r:*") as tar:  # gzip is recognised by its first bytes, whatever the name
            yield tar
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
    return coco.record(image, masks.rles, NAME, remarks=remarks, names=names)
