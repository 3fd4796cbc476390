"""Packs of SA-1B, as class-agnostic ground truth.

Protocol (paper section 4.1): one pack of some 11,000 images, another than those trained on, all masks. They are made
by a machine (SAM, checked by people in part), which is why AP and AR there lean towards what SAM finds. The files
have no hierarchy and no crowds; masks are run lengths in stored pixels. Image ids are the files' own `image_id`.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.structures import ImageRecord

NAME = "sa1b"
INFO = """Get a pack (sa_000000.tar ...) from Meta's SA-1B page, by the signed links of its list. DIR holds:
  sa_1.jpg  sa_1.json ...                (the pack unpacked)
  or sa_000000.tar                       (the pack itself, plain or gzip inside; DIR may be the file, too)"""


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth: files in the order of their numbers, or a tar's in its own order."""
    files = sorted(Path(root).rglob("sa_*.json"), key=lambda file: layout.number(file.name))
    if files:
        return (_record(file.read_bytes(), file) for file in files)
    tars = _tars(root) or [layout.find(root, "sa_*.json", "*.tar", name=NAME)]
    return (record for path in tars for record in _read_tar(path))


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored, out of the folder or its tars."""
    if (Path(root) / file_name).is_file():
        return (Path(root) / file_name).read_bytes()
    if Path(root).is_dir():
        for place in Path(root).rglob(file_name):
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
                yield _record(file.read(), path / member.name)


@lru_cache(2)
def _members(path: Path) -> dict[str, tarfile.TarInfo]:
    """Where the files of a tar lie, by their names; kept, since finding it out reads the whole tar."""
    with _open(path) as tar:
        return {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}


def _open(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:*")  # tells gzip by its first bytes, whatever the name says
    except (tarfile.TarError, OSError) as error:
        raise SohesError(f"{path} cannot be read as a pack of SA-1B ({error}): get it anew") from None


def _record(data: bytes, path: Path) -> ImageRecord:
    content: Any = json.loads(data)
    try:
        image = {**content["image"], "id": content["image"]["image_id"]}
        annotations = content["annotations"]
        rles = [coco.rle_of(annotation, image, path) for annotation in annotations]
    except (KeyError, TypeError):
        raise SohesError(
            f"{path} is not SA-1B JSON: it needs `image` with its id and size, and `annotations`"
        ) from None
    return coco.record(image, rles, [False] * len(rles), NAME)
