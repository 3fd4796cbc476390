"""Step 3 of phase 1: mask refiners, one file each."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sohes.explore.packed import PackedMasks
from sohes.explore.refine.cascadepsp import CascadePspRefiner, load_cascadepsp
from sohes.explore.refine.densecrf import DenseCrfRefiner
from sohes.explore.refine.guided import GuidedRefiner
from sohes.explore.refine.none import NoRefiner


class Refiner(Protocol):
    """Moves the outlines of an image's masks to where the image has its edges (paper 3.1, step 3).

    label_free: false if human masks were used to make it, which a report must say.
    """

    label_free: bool

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """Each mask anew, in the same order; image_HW3 is uint8 RGB."""
        ...


def make_refiner(name: str, *, patch: float) -> Refiner:
    """The refiner that `explore.refiner` in the params names. patch: a patch's side in pixels, which the outlines of
    unrefined masks are off by. SohesError if the refiner's package or weights are not here."""
    match name:
        case "none":
            return NoRefiner()
        case "guided":
            return GuidedRefiner(patch)
        case "densecrf":
            return DenseCrfRefiner(patch)
        case "cascadepsp":
            return CascadePspRefiner(load_cascadepsp())
    raise ValueError(f"refiner must be none, guided, densecrf or cascadepsp (got {name!r})")
