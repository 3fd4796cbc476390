"""Refinement by CascadePSP (Cheng et al., 2020), the paper's choice: a network that was trained on human masks."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from sohes.errors import SohesError
from sohes.explore.packed import PackedMasks, join, pack

MARGIN = 0.5  # of the box's longer side, and at least LEAST_MARGIN pixels: what is seen round a mask
LEAST_MARGIN = 16
WEIGHTS = "SOHES_CASCADEPSP"  # the environment's variable that names the weights' file

# A (h, w, 3) uint8 RGB image and a (h, w) uint8 mask of 0 and 255 to a (h, w) uint8 probability.
Network = Callable[[np.ndarray, np.ndarray], np.ndarray]


class CascadePspRefiner:
    label_free = False

    def __init__(self, network: Network) -> None:
        self.network = network

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """Each mask by the network, which sees its box and a margin round it."""
        return join([self._refine_one(image_HW3, masks, i) for i in range(len(masks))], size=masks.size)

    def _refine_one(self, image_HW3: np.ndarray, masks: PackedMasks, index: int) -> PackedMasks:
        row0, word0, row1, word1 = masks.boxes_N4[index].tolist()
        x0 = 64 * word0
        columns = np.flatnonzero(masks.window(index, (row0, x0, row1, 64 * word1)).any(0))
        if not len(columns):
            return masks[np.array([index])]
        x0, x1 = x0 + int(columns[0]), x0 + int(columns[-1]) + 1
        margin = max(LEAST_MARGIN, round(MARGIN * max(row1 - row0, x1 - x0)))
        height, width = masks.size
        y0, y1 = max(0, row0 - margin), min(height, row1 + margin)
        x0, x1 = max(0, x0 - margin), min(width, x1 + margin)
        mask = masks.window(index, (y0, x0, y1, x1))
        probable = self.network(np.ascontiguousarray(image_HW3[y0:y1, x0:x1]), mask.astype(np.uint8) * 255)
        return pack((probable > 127)[None], size=masks.size, origin=(y0, x0))


@cache
def load_cascadepsp() -> Network:
    """The released network, on a GPU if there is one. SohesError if its package or its weights are not here."""
    try:
        from segmentation_refinement import Refiner
    except ImportError:
        raise SohesError(
            "the refiner cascadepsp needs the package segmentation-refinement: install sohes[cascadepsp], or set "
            "explore.refiner to guided"
        ) from None
    import torch

    default = Path.home() / ".segmentation-refinement/model"
    weights = Path(os.environ.get(WEIGHTS, default)).expanduser()
    if not weights.is_file():
        raise SohesError(
            f"CascadePSP's weights are not at {weights}: fetch the file `model` of its release 1.0 there, or name it "
            f"in {WEIGHTS}"
        )
    if weights.name != "model":
        raise SohesError(f"the package wants the weights' file to be called model: rename {weights}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Refiner(device=device, model_folder=str(weights.parent), download_and_check_model=False)
    return network.refine
