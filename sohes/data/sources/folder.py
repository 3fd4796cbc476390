"""A folder of photographs as a source, with or without annotations.

Every image file below the folder is used, at any depth, except hidden files and folders. Names are paths relative to
the folder, so equal names in different sub-folders stay apart.

The split: `eval_fraction` of the images are held out, those whose content has the smallest digests. So renaming or
adding photographs moves few others, and copies of a photograph stay on one side. At least one image is held out and at
least one is not. In two cases training and evaluation use the same photographs (training never sees annotations): with
`eval_fraction` 1, and if the folder has a single photograph.

Without annotations, ids count from 1 in the order of names, and EXIF rotation is applied. With annotations, ids and
names are theirs, only annotated photographs are used, and EXIF rotation is applied where the size of the annotations
or `pull.annotations_upright` asks for it. A name that no file has stands for the only file whose last parts are the
same (`sohes.data.names`).
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sohes.data.benchmarks import coco, own
from sohes.data.names import found_as
from sohes.data.sources.source import SUFFIXES, Photograph, Plan, is_photograph
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.structures import ImageRecord
from sohes.work.walk import walk

MAX_FILE_BYTES = 2**30  # files are read into memory as a whole; no photograph comes near
_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")  # a byte that is not UTF-8, as `_printable` shows it
_DRAWN = re.compile(r"(.+)\.(?:photo\.jpg|(?:overlay|levels)\.(?:webp|png))", re.DOTALL)  # as `Result.save` names them
_HEAD = 65536  # bytes that, with the size, identify a photograph: reading a large folder twice takes hours


@dataclass(frozen=True)
class FolderSource:
    """`images`: the folder. `annotations`: COCO or COCO panoptic JSON, or None. `eval_fraction`: held out, 0 to 1."""

    images: Path
    annotations: Path | None
    eval_fraction: float

    def plan(self) -> Plan:
        listing = list_photographs(self.images)
        notes = [left_out(self.images, listing.others)] if listing.others else []
        if self.annotations is None:
            photographs = [self._photograph(i, name) for i, name in enumerate(listing.names, 1)]
        else:
            images = coco.load(self.annotations)["images"]
            listed = {image["file_name"] for image in images}
            paths = {str(PurePosixPath(name)) for name in listed}  # `./a.png` is a.png
            free = [name for name in listing.photographs if name not in paths]
            other = found_as((name for name in listed if not self._has(name)), free)
            photographs = [
                self._photograph(
                    image["id"],
                    image["file_name"],
                    (image["height"], image["width"]),
                    other.get(image["file_name"], ""),
                )
                for image in images
            ]
            if other:
                name = min(other)
                notes.append(
                    f"{len(other)} photographs have other names than in {self.annotations}, such as "
                    f"{other[name]}, which is taken for {name}"
                )
            if unlisted := len(free) - len(other):
                notes.append(f"{unlisted} photographs are not listed in {self.annotations} and were left out")
            if listing.unread:
                notes.append(f"{len(listing.unread)} folders cannot be looked into, such as {listing.unread[0]}")
        if not photographs:
            where = self.annotations or f"{self.images} ({', '.join(SUFFIXES)}, in sub-folders too)"
            raise SohesError(f"there are no photographs in {where}: name a folder that has some")
        train, held_out = self._split(photographs)
        if train == held_out:
            notes.append(f"all {len(train)} photographs are used both for training and for evaluation")
        return Plan(tuple(train), tuple(held_out), self.annotations is None, tuple(notes))

    def _photograph(
        self, image_id: int, name: str, expected_hw: tuple[int, int] | None = None, other: str = ""
    ) -> Photograph:
        try:
            status = (self.images / (other or name)).stat()
        except (OSError, ValueError):  # ValueError: a name with a zero byte
            return Photograph(image_id, name, "unreadable", expected_hw)
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        return Photograph(image_id, name, stamp, expected_hw, status.st_size, other)

    def _has(self, name: str) -> bool:
        """Whether a file of the very name is there, as far as one may look."""
        try:
            return not _is_outside(name) and (self.images / name).exists()
        except OSError:
            return True
        except ValueError:
            return False

    def _path(self, photograph: Photograph) -> Path:
        return self.images / (photograph.found_as or photograph.file_name)

    def _split(self, photographs: list[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
        if self.eval_fraction == 0:
            return photographs, []
        if self.eval_fraction == 1:
            return photographs, photographs
        with ThreadPoolExecutor(8) as pool:  # mostly waits for the disk
            keys = list(pool.map(_content_key, map(self._path, photographs)))
        chosen = held_out_keys(keys, self.eval_fraction)
        if not chosen:
            return photographs, photographs
        train = [photograph for photograph, key in zip(photographs, keys, strict=True) if key not in chosen]
        return train, [photograph for photograph, key in zip(photographs, keys, strict=True) if key in chosen]

    def read(self, photograph: Photograph) -> bytes:
        if _is_outside(photograph.found_as or photograph.file_name):
            raise UnreadableImage("its name in the annotations points outside the folder")
        return read_photograph(self._path(photograph))

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord] | None:
        if self.annotations is None:
            return None
        return own.read(self.annotations, set(image_ids))


@dataclass(frozen=True)
class Listing:
    """What a folder holds, by names relative to it. unread: places that cannot be looked into; others: a count."""

    photographs: list[str]
    unread: list[str]
    others: int

    @property
    def names(self) -> list[str]:
        """Everything that a photograph may be lost with: whoever reads an unread place gets the reason."""
        return sorted([*self.photographs, *self.unread])


def list_photographs(folder: Path, *, leave_out: Path | None = None) -> Listing:
    """The image files below a folder, sorted, and what else there is.

    leave_out: a folder to skip. Links to folders are followed, each folder once, so cycles are harmless.
    """
    if not folder.is_dir():
        raise SohesError(f"there is no folder of photographs at {folder}: fix pull.folder.images")
    found = walk(folder, leave_out=leave_out)
    files = frozenset(found.files)
    photographs = [name for name in files if is_photograph(name) and not _is_drawn(name, files)]
    others = len(files) - len(photographs)
    return Listing(sorted(map(_printable, photographs)), sorted(map(_printable, found.unread)), others)


def read_photograph(path: Path) -> bytes:
    """The bytes of an image file. UnreadableImage says why not; a pipe or a device is not waited for."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            next(path.iterdir(), None)  # has the reason why a walk could not look into it
        elif not stat.S_ISREG(status.st_mode):
            raise UnreadableImage("it is a pipe, a socket or a device, not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnreadableImage(f"the file has {status.st_size / 2**30:.1f} GiB, more than an image needs")
        return path.read_bytes()
    except (FileNotFoundError, ValueError):  # ValueError: a name with a zero byte
        if path.is_symlink():
            raise UnreadableImage("a link to nothing") from None
        escaped = ": its name is not UTF-8, rename it" if _ESCAPED.search(path.name) else ""
        raise UnreadableImage(f"no such photograph in the folder{escaped}") from None
    except OSError as error:
        raise UnreadableImage(f"it cannot be read: {error.strerror}") from None


def _is_drawn(name: str, files: Collection[str]) -> bool:
    """Whether it is a picture that `sohes segment` has left beside its JSON."""
    drawn = _DRAWN.fullmatch(name)
    return drawn is not None and f"{drawn[1]}.json" in files


def _is_outside(name: str) -> bool:
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts


def left_out(folder: Path, others: int) -> str:
    """The message about files below a folder that are not photographs."""
    return (
        f"{folder}: {others} left out, because their names end in none of {', '.join(SUFFIXES)}, or because they are "
        "pictures of `sohes segment`"
    )


def _printable(name: str) -> str:
    """The name, escaped if it is not UTF-8. No file has the escaped name, so the image is rejected, not lost."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _content_key(path: Path) -> str | None:
    """A digest of a file's size and first bytes; None if it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            return hashlib.sha256(f"{path.stat().st_size} ".encode() + file.read(_HEAD)).hexdigest()
    except (OSError, ValueError):
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
