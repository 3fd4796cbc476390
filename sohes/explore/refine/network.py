"""Shared by the refiners that are released networks: a window around each mask, and the file of weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sohes.errors import SohesError, is_installed, require_package
from sohes.masks.packed import PackedMasks, join, pack
from sohes.work.files import digest_file

MARGIN = 0.5  # around a mask, as a share of its box's longer side
LEAST_MARGIN = 16  # pixels
GPU_BYTES = 3e9  # that a process needs for windows of 1024 pixels: CUDA's context, weights and activations

# From a (h, w, 3) uint8 RGB image and a (h, w) uint8 mask of 0 and 255 to the refined (h, w) bool mask.
Network = Callable[[np.ndarray, np.ndarray], np.ndarray]


class NetworkRefiner:
    label_free = False  # all released networks were trained on human masks

    def __init__(self, network: Network) -> None:
        self.network = network

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """Each mask refined by the network, which sees its box and a margin around it."""
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
        refined = self.network(np.ascontiguousarray(image_HW3[y0:y1, x0:x1]), mask.astype(np.uint8) * 255)
        return pack(refined[None], size=masks.size, origin=(y0, x0))


@dataclass(frozen=True)
class Release:
    """The released weights of a network: a file that users download themselves, under its authors' terms.

    default: its path below the home folder; variable: the environment variable that names another path; file: a
    description of the file; package: another package that it needs, by its import name.
    """

    name: str
    variable: str
    default: str
    file: str
    package: str | None = None

    def path(self) -> Path:
        """Path of the weights. SohesError if there is no such file."""
        named = os.environ.get(self.variable, f"~/{self.default}")
        path = Path(named).expanduser()
        if not path.is_file():
            raise SohesError(
                f"{self.name}'s weights are not at {named}: fetch {self.file} there, or name it in {self.variable}"
            )
        return path

    def require(self) -> Path:
        """Path of the weights. SohesError if they, torch or the package are missing."""
        require_package("torch")
        if self.package and not is_installed(self.package):
            package, extra = self.package.replace("_", "-"), self.name.lower()
            remedy = f"install sohes[{extra}], or set explore.refiner to guided"
            raise SohesError(f"{self.name} needs the package {package}: {remedy}")
        return self.path()

    def digest(self) -> str:
        """Digest of the weights. SohesError if they are missing."""
        return digest_file(self.path())


def fitting_processes(workers: int) -> int:
    """How many of `workers` processes, each with its own network, fit on the GPU; all of them without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return workers
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(workers, int(free / GPU_BYTES)))


RELEASES = {
    "cascadepsp": Release(
        "CascadePSP",
        "SOHES_CASCADEPSP",
        ".segmentation-refinement/model",
        "the file `model` of its release 1.0",
        package="segmentation_refinement",
    ),
    "crm": Release("CRM", "SOHES_CRM", ".cache/sohes/crm", "the checkpoint of its authors' repository"),
}
