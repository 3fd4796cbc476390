"""What every source of images offers to the stage `pull`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.structures import ImageRecord, MaskSet

IDS_PER_PACK = 10_000_000  # photographs of the n-th pack are numbered from n times this, plus one


@dataclass(frozen=True)
class Photograph:
    """One image that a source has. `stamp` changes when its file does; `expected_hw`: what its annotations say."""

    image_id: int
    file_name: str
    stamp: str = ""
    expected_hw: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pack:
    """Photographs that come together, as an archive: one shard. `index`: its place in the plan.

    `stamp` changes when its content does; `size`: bytes, 0 where nobody says; `held_out`: all of it is for evaluation.
    """

    index: int
    name: str
    stamp: str = ""
    size: int = 0
    held_out: bool = False


@dataclass(frozen=True)
class Member:
    """One photograph out of a pack. `truth`: its annotated masks, where they are known and it is held out."""

    image_id: int
    file_name: str
    data: bytes | UnreadableImage
    truth: MaskSet | None = None


@dataclass(frozen=True)
class Plan:
    """The images for training and those held out, or the packs that they come in.

    `notes`: sentences for the user, on what was left out and why.
    """

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    apply_exif: bool
    notes: tuple[str, ...] = ()
    packs: tuple[Pack, ...] = ()


class Source(Protocol):
    """Picklable: each process of the pool has its own."""

    def plan(self) -> Plan:
        """What there is; the same images give the same plan. SohesError for a source that cannot be used."""

    def read(self, photograph: Photograph) -> bytes:
        """An image file's bytes. UnreadableImage says why there are none."""

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord] | None:
        """The ground truth of these images, in any order and without digests; None where there is none to have."""


class PackSource(Protocol):
    """A source whose photographs are known only when their pack has come. Picklable too."""

    def plan(self) -> Plan:
        """As `Source.plan`, in packs."""

    def fetch(self, pack: Pack, folder: Path) -> str:
        """Bring the pack into `folder`, whole, continuing what is there; its digest. SohesError if it cannot be had."""

    def members(self, pack: Pack, folder: Path, *, held_out: bool) -> Iterator[Member]:
        """The photographs for evaluation, or those for training, of a pack that was fetched."""


def held_out_by_name(name: str, eval_fraction: float) -> bool:
    """Whether a photograph is held out: by a digest of its name, so that each pack decides without the others."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) < eval_fraction * 2**64


def read_digests(path: Path | None) -> dict[str, str]:
    """`sha256:<hex>` by file name, from the lines `<hex>  <name>` that sha256sum writes; none without a path."""
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise SohesError(f"there is no list of digests at {path}: mend pull's `digests`") from None
    digests = {}
    for number, line in enumerate(lines, 1):
        hexadecimal, _, name = line.partition(" ")
        if not line.strip():
            continue
        if len(hexadecimal) != 64 or set(hexadecimal.lower()) - set("0123456789abcdef") or not name.strip(" *"):
            raise SohesError(f"{path}, line {number}: a digest of 64 letters and a file name are needed (got {line!r})")
        digests[name.strip().removeprefix("*")] = f"sha256:{hexadecimal.lower()}"
    return digests
