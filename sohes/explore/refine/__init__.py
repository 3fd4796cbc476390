"""Step 3 of phase 1: mask refiners, one file each."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from sohes.errors import SohesError
from sohes.explore.refine.densecrf import DenseCrfRefiner
from sohes.explore.refine.guided import GuidedRefiner
from sohes.explore.refine.network import RELEASES, NetworkRefiner, fitting_processes
from sohes.explore.refine.none import NoRefiner
from sohes.masks.packed import PackedMasks


class Refiner(Protocol):
    """Moves the outlines of an image's masks to where the image has its edges (paper 3.1, step 3).

    label_free: whether it was made without human masks.
    """

    label_free: bool

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """The refined masks, in the same order; image_HW3 is uint8 RGB."""
        ...


_KINDS: dict[str, type[Refiner]] = {
    "none": NoRefiner,
    "guided": GuidedRefiner,
    "densecrf": DenseCrfRefiner,
    **dict.fromkeys(RELEASES, NetworkRefiner),
}


def make_refiner(name: str, *, patch: float) -> Refiner:
    """The refiner named by `explore.refiner`. patch: the side of a patch in pixels, the error of unrefined outlines.
    SohesError if the refiner's package or weights are missing."""
    match name:
        case "none":
            return NoRefiner()
        case "guided":
            return GuidedRefiner(patch)
        case "densecrf":
            return DenseCrfRefiner(patch)
        case "cascadepsp":
            weights = RELEASES[name].require()
            from sohes.explore.refine.cascadepsp import load_cascadepsp

            return NetworkRefiner(load_cascadepsp(weights))
        case "crm":
            weights = RELEASES[name].require()
            from sohes.explore.refine.crm import load_crm

            return NetworkRefiner(load_crm(weights))
    raise ValueError(f"refiner must be none, guided, densecrf, cascadepsp or crm (got {name!r})")


def is_label_free(name: str) -> bool:
    """Whether a refiner was made without human masks; nothing is loaded."""
    return _KINDS[name].label_free


def require_refiner(name: str) -> None:
    """SohesError if the refiner's package or weights are missing. Nothing is loaded."""
    if name in RELEASES:
        RELEASES[name].require()


def what_it_lacks(name: str) -> str | None:
    """The sentence of the error that `require_refiner` would raise; None where nothing is missing."""
    try:
        require_refiner(name)
    except SohesError as error:
        return str(error)
    return None


def weights_file(name: str) -> Path | None:
    """Where the refiner's weights lie; None for a refiner without weights, and where they are missing."""
    return RELEASES[name].path() if name in RELEASES and what_it_lacks(name) is None else None


def weights_digest(name: str) -> str | None:
    """Digest of the refiner's weights, on which its masks depend; None for a refiner without weights. SohesError if
    they are missing."""
    return RELEASES[name].digest() if name in RELEASES else None


def most_workers(name: str, workers: int) -> int:
    """How many of `workers` processes can refine at a time."""
    return fitting_processes(workers) if name in RELEASES else workers
