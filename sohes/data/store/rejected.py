"""Images that a stage left out, and why."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sohes.errors import SohesError
from sohes.work.files import write_file

_WORDS = {"pull": ("cannot be used", "can be used"), "explore": ("could not be labelled", "could be labelled")}


@dataclass(frozen=True)
class Rejected:
    """A row of `rejected.jsonl`."""

    file_name: str
    reason: str


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """Write one line of JSON per image."""
    write_file(path, "".join(json.dumps(asdict(image), ensure_ascii=False) + "\n" for image in rejected))


def first_reasons(rejected: Sequence[Rejected]) -> str:
    """The first three images with their reasons, for an error message."""
    return "; ".join(f"{image.file_name}: {image.reason}" for image in rejected[:3])


def check_rejected(
    kept: int, rejected: Sequence[Rejected], *, max_rejected_fraction: float, stage: Literal["pull", "explore"] = "pull"
) -> None:
    """SohesError if no image is left, or if more were rejected than `<stage>.max_rejected_fraction` allows."""
    total = kept + len(rejected)
    unfit, fit = _WORDS[stage]
    if not total:
        raise SohesError("the source has no images: name one that has")
    if len(rejected) > max_rejected_fraction * total:
        raise SohesError(
            f"{len(rejected)} of {total} images {unfit}, more than {stage}.max_rejected_fraction "
            f"({max_rejected_fraction:g}) allows: fix or remove them, or raise it. The first: {first_reasons(rejected)}"
        )
    if not kept:
        raise SohesError(f"none of {total} images {fit}: fix them or name others. The first: {first_reasons(rejected)}")
