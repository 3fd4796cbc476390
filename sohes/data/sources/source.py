"""What every source of images offers to the stage `pull`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from sohes.structures import ImageRecord


@dataclass(frozen=True)
class Photograph:
    """One image that a source has. `stamp` changes when its file does; `expected_hw`: what its annotations say."""

    image_id: int
    file_name: str
    stamp: str = ""
    expected_hw: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """The images for training and those held out. `notes`: sentences for the user, on what was left out and why."""

    train: tuple[Photograph, ...]
    held_out: tuple[Photograph, ...]
    apply_exif: bool
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Picklable: each process of the pool has its own."""

    def plan(self) -> Plan:
        """What there is; the same images give the same plan. SohesError for a source that cannot be used."""

    def read(self, photograph: Photograph) -> bytes:
        """An image file's bytes. UnreadableImage says why there are none."""

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord] | None:
        """The ground truth of these images, in any order and without digests; None where there is none to have."""
