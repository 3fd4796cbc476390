"""A folder of photographs as a source, with or without annotations.

Every image file below the folder is used, at any depth, except hidden files and folders. Names are paths relative to
the folder, so equal names in different sub-folders stay apart.

The split: `eval_fraction` of the images are held out, those whose content has the smallest digests. So renaming or
adding photographs moves few others, and copies of a photograph stay on one side. At least one image is held out and at
least one is not. In two cases training and evaluation use the same photographs (training never sees annotations): with
`eval_fraction` 1, and if the folder has a single photograph.

Without annotations, ids count from 1 in the order of names, and EXIF rotation is applied. With annotations, ids are
theirs, only annotated photographs are used, and EXIF rotation is not applied, because masks refer to stored pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sohes.data.benchmarks import coco, own
from sohes.data.sources.source import Photograph, Plan
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.structures import ImageRecord

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_FILE_BYTES = 2**30  # files are read into memory as a whole; no photograph comes near
_HEAD = 65536  # bytes that, with the size, identify a photograph: reading a large folder twice takes hours


@dataclass(frozen=True)
class FolderSource:
    """`images`: the folder. `annotations`: COCO or COCO panoptic JSON, or None. `eval_fraction`: held out, 0 to 1."""

    images: Path
    annotations: Path | None
    eval_fraction: float

    def plan(self) -> Plan:
        names, others = list_photographs(self.images)
        notes = [left_out(self.images, others)] if others else []
        if self.annotations is None:
            photographs = [Photograph(i, name, _stamp(self.images / name)) for i, name in enumerate(names, 1)]
        else:
            photographs = [
                Photograph(
                    image["id"],
                    image["file_name"],
                    _stamp(self.images / image["file_name"]),
                    (image["height"], image["width"]),
                )
                for image in coco.load(self.annotations)["images"]
            ]
            unlisted = len(set(names) - {photograph.file_name for photograph in photographs})
            if unlisted:
                notes.append(f"{unlisted} photographs are not listed in {self.annotations} and were left out")
        if not photographs:
            where = self.annotations or f"{self.images} ({', '.join(SUFFIXES)}, in sub-folders too)"
            raise SohesError(f"there are no photographs in {where}: name a folder that has some")
        train, held_out = self._split(photographs)
        if train == held_out:
            notes.append(f"all {len(train)} photographs are used both for training and for evaluation")
        return Plan(tuple(train), tuple(held_out), self.annotations is None, tuple(notes))

    def _split(self, photographs: list[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
        if self.eval_fraction == 0:
            return photographs, []
        if self.eval_fraction == 1:
            return photographs, photographs
        with ThreadPoolExecutor(8) as pool:  # mostly waits for the disk
            keys = list(pool.map(_content_key, (self.images / photograph.file_name for photograph in photographs)))
        chosen = held_out_keys(keys, self.eval_fraction)
        if not chosen:
            return photographs, photographs
        train = [photograph for photograph, key in zip(photographs, keys, strict=True) if key not in chosen]
        return train, [photograph for photograph, key in zip(photographs, keys, strict=True) if key in chosen]

    def read(self, photograph: Photograph) -> bytes:
        name = PurePosixPath(photograph.file_name)
        if name.is_absolute() or ".." in name.parts:
            raise UnreadableImage("its name in the annotations points outside the folder")
        path = self.images / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise UnreadableImage(f"the file has {path.stat().st_size / 2**30:.1f} GiB, more than an image needs")
            return path.read_bytes()
        except FileNotFoundError:
            raise UnreadableImage("no such photograph in the folder") from None
        except OSError as error:
            raise UnreadableImage(f"the file cannot be read: {error.strerror}") from None

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord] | None:
        if self.annotations is None:
            return None
        return own.read(self.annotations, set(image_ids))


def list_photographs(folder: Path, *, leave_out: Path | None = None) -> tuple[list[str], int]:
    """The sorted relative names of the image files below a folder, and the number of other files.

    leave_out: a folder to skip. Links to folders are followed, each folder once, so cycles are harmless.
    """
    if not folder.is_dir():
        raise SohesError(f"there is no folder of photographs at {folder}: fix pull.folder.images")
    names: list[str] = []
    others = 0
    visited = {os.path.realpath(leave_out)} if leave_out else set()
    if os.path.realpath(folder) in visited:
        return [], 0
    for current, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(current))
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if _is_new(Path(current) / name, visited)]
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(SUFFIXES):
                names.append((Path(current) / name).relative_to(folder).as_posix())
            else:
                others += 1
    return sorted(_printable(name) for name in names), others


def left_out(folder: Path, others: int) -> str:
    """The message about files below a folder that are not photographs."""
    return f"{folder}: {others} left out, because their names end in none of {', '.join(SUFFIXES)}"


def _is_new(folder: Path, visited: set[str]) -> bool:
    place = os.path.realpath(folder)
    if place in visited:
        return False
    visited.add(place)
    return True


def _printable(name: str) -> str:
    """The name, escaped if it is not UTF-8. No file has the escaped name, so the image is rejected, not lost."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "unreadable"
    return f"{status.st_size} {status.st_mtime_ns}"


def _content_key(path: Path) -> str | None:
    """A digest of a file's size and first bytes; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.sha256(f"{path.stat().st_size} ".encode() + file.read(_HEAD)).hexdigest()
    except OSError:
        return None


def held_out_keys(keys: Sequence[str | None], eval_fraction: float) -> set[str]:
    """The smallest keys that together cover `eval_fraction` of the images: at least one image, but never all.

    Images with the same key (copies of a photograph) stay together; those without a key are never chosen.
    """
    copies = Counter(key for key in keys if key is not None)
    wanted = max(1, round(eval_fraction * copies.total()))
    chosen: set[str] = set()
    covered = 0
    for key in sorted(copies)[:-1]:
        if covered >= wanted:
            break
        chosen.add(key)
        covered += copies[key]
    return chosen
