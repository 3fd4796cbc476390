"""The interface of image sources, as used by the stage `pull`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from sohes.data.names import last_part, one_ends_with_the_other, tails
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks
from sohes.project import read_text
from sohes.structures import ImageRecord, MaskSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
IDS_PER_PACK = 10_000_000  # ids in the n-th pack start at n times this, plus one


@dataclass(frozen=True)
class Photograph:
    """One image of a source. `stamp` changes when the file does; `expected_hw`: its size in the annotations.

    `size`: bytes, 0 if unknown. `found_as`: the file's name in the source, if it is not `file_name`.
    """

    image_id: int
    file_name: str
    stamp: str = ""
    expected_hw: tuple[int, int] | None = None
    size: int = 0
    found_as: str = ""


@dataclass(frozen=True)
class Pack:
    """Photographs that come together, such as an archive: one shard. `index`: its position in the plan.

    `stamp` changes when the content does, and is empty if nobody can tell; `size`: bytes, 0 if unknown; `held_out`: the
    whole pack is for evaluation; `digest`: what its file must have; `objects`: what it consists of, if it is no file.
    """

    index: int
    name: str
    stamp: str = ""
    size: int = 0
    held_out: bool = False
    digest: str | None = None
    objects: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Member:
    """One photograph of a pack. `truth`: its annotated masks, if it is held out and they are known."""

    image_id: int
    file_name: str
    data: bytes | UnreadableImage
    truth: MaskSet | None = None


@dataclass(frozen=True)
class Plan:
    """The images for training and the held-out ones, or the packs that contain them.

    `notes`: sentences for the user on what was left out and why.
    """

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    apply_exif: bool
    notes: tuple[str, ...] = ()
    packs: tuple[Pack, ...] = ()

    @property
    def files(self) -> frozenset[tuple[str, str]]:
        """Name and stamp of every file that is read as it is found, not as it was listed."""
        photographs = ((photograph.file_name, photograph.stamp) for photograph in (*self.train, *self.held_out))
        return frozenset([*photographs, *((pack.name, pack.stamp) for pack in self.packs if not pack.objects)])

    @property
    def count(self) -> int:
        """How many photographs and archives were listed."""
        return len(self.train) + len(self.held_out) + sum(len(pack.objects) or 1 for pack in self.packs)


class Source(Protocol):
    """Must be picklable: each worker process gets a copy."""

    def plan(self) -> Plan:
        """The images of the source; the same images give the same plan. SohesError if the source cannot be used."""

    def read(self, photograph: Photograph) -> bytes:
        """The bytes of an image file. UnreadableImage, with the reason, if it cannot be read."""

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord] | None:
        """The ground truth of these images, in any order and without digests; None if the source has none."""


class PackSource(Protocol):
    """A source whose photographs are known only after their pack has been fetched. Must be picklable."""

    def plan(self) -> Plan:
        """Like `Source.plan`, but in packs."""

    def fetch(self, pack: Pack, folder: Path) -> str:
        """Fetch the whole pack into `folder`, resuming if possible. Returns its digest. SohesError if that fails."""

    def members(self, pack: Pack, folder: Path, *, held_out: bool, remarks: Remarks | None = None) -> Iterator[Member]:
        """The photographs of a fetched pack that are for evaluation (`held_out`) or for training.

        remarks: gets what was left out of the annotations.
        """


def held_out_by_name(name: str, eval_fraction: float) -> bool:
    """Whether a photograph is held out, by a digest of its name, so that packs do not depend on each other."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) < eval_fraction * 2**64


def is_photograph(path: str) -> bool:
    """Whether a path is that of an image that is meant to be seen, by its name."""
    return path.lower().endswith(SUFFIXES) and is_visible(path)


def is_visible(path: str) -> bool:
    """Whether a path is neither hidden nor that of a twin that macOS puts into `__MACOSX`."""
    return not any(p.startswith((".", "__MACOSX")) for p in PurePosixPath(path).parts if p != "..")


def read_digests(path: Path | None, names: Collection[str]) -> dict[str, str]:
    """`sha256:<hex>` by name, for those of `names` that `path` has, in lines `<hex>  <file>` as written by sha256sum.

    A line is of the name that its file ends with, or the other way round, and of those of the one most like it; lines
    of other files do not count.
    Empty without a path. SohesError for a line that may be of several names, and if none is of any.
    """
    if path is None:
        return {}
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(last_part(name), []).append(name)
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise SohesError(f"there is no list of digests at {path}: fix the key `digests` under pull") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        hexadecimal, _, name = line.partition(" ")
        if not line.strip():
            continue
        if len(hexadecimal) != 64 or set(hexadecimal.lower()) - set("0123456789abcdef") or not name.strip(" *"):
            raise SohesError(f"{path}, line {number}: expected 64 hexadecimal digits and a file name (got {line!r})")
        file, digest = name.strip().removeprefix("*"), f"sha256:{hexadecimal.lower()}"
        ways = [pack for pack in by_last.get(last_part(file), ()) if one_ends_with_the_other(pack, file)]
        best = max((_likeness(way, file) for way in ways), default=None)
        meant = [way for way in ways if _likeness(way, file) == best]
        if len(meant) > 1:
            raise SohesError(f"{path}, line {number}: {file} may be {' or '.join(meant[:2])}: write more of its path")
        if meant and digests.setdefault(meant[0], digest) != digest:
            raise SohesError(f"{path}, line {number}: {meant[0]} has another digest in a line before: remove one")
    if names and not digests:
        raise SohesError(f"{path} has no digest of {min(names)} or any other pack: fix the key `digests` under pull")
    return digests


def _likeness(name: str, file: str) -> tuple[int, bool]:
    """How many parts two paths share, of which one ends with the other, and whether these are all."""
    a, b = (len(next(tails(path), ())) for path in (name, file))
    return min(a, b), a == b
