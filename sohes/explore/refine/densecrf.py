"""Refinement by a fully connected conditional random field of two labels (Kraehenbuehl and Koltun, 2011).

Each pixel is pulled towards the labels of all others, more strongly the nearer and the more similar in colour they are.
Mean-field steps approximate the best labels; their sums over all pairs are Gaussian filters.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sohes.explore.refine.lattice import Lattice, build_lattice
from sohes.masks.packed import PackedMasks, join, pack

MOST_DEVIATIONS = 300  # along the longer side: the lattice has room for no more than 500


@dataclass(frozen=True)
class DenseCrfRefiner:
    """patch: side of a patch in pixels.  doubt: how far from its outline a mask is uncertain, in patches.
    appearance, spread, colours: weight of the kernel of position and colour, and its deviations in patches and grey
    levels.  smoothness: weight of the kernel of position, whose deviation is a pixel. Measured in docs/log.md."""

    patch: float
    doubt: float = 0.4
    appearance: float = 2.0
    spread: float = 1.5
    colours: float = 6.0
    smoothness: float = 1.0
    steps: int = 5
    label_free = True

    def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
        """The more probable label of each pixel, within the mask's box and a margin around it."""
        height, width = image_HW3.shape[:2]
        deviation = max(self.spread * self.patch, max(height, width) / MOST_DEVIATIONS)
        ys, xs = np.mgrid[:height, :width] / deviation
        lattice = build_lattice(np.dstack([ys, xs, image_HW3 / self.colours]))
        whole = lattice.filter(np.ones((height, width), np.float32))
        return join([self._refine_one(lattice, whole, masks, i) for i in range(len(masks))], size=masks.size)

    def _refine_one(self, lattice: Lattice, whole_HW: np.ndarray, masks: PackedMasks, index: int) -> PackedMasks:
        height, width = masks.size
        margin = int(np.ceil(3 * self.doubt * self.patch))
        row0, word0, row1, word1 = masks.boxes_N4[index].tolist()
        y0, x0 = max(0, row0 - margin), max(0, 64 * word0 - margin)
        y1, x1 = min(height, row1 + margin), min(width, 64 * word1 + margin)
        mask = masks.window(index, (y0, x0, y1, x1))
        labels = mean_field(
            unary(mask, doubt=self.doubt * self.patch),
            lattice.window((y0, x0, y1, x1)),
            whole_HW[y0:y1, x0:x1],
            appearance=self.appearance,
            smoothness=self.smoothness,
            steps=self.steps,
        )
        return pack((labels > 0.5)[None], size=masks.size, origin=(y0, x0))


def unary(mask_hw: np.ndarray, *, doubt: float) -> np.ndarray:
    """(h, w) float32 log odds in [-3, 3] of a mask whose outline is off by about `doubt` pixels: 0 on the outline."""
    soft = cv2.GaussianBlur(mask_hw.astype(np.float32), (0, 0), doubt, borderType=cv2.BORDER_REPLICATE)
    soft = soft.clip(0.0474, 0.9526)  # odds of e^3, so colour can outvote the mask
    return np.log(soft / (1 - soft))


def mean_field(
    unary_hw: np.ndarray,
    lattice: Lattice,
    whole_hw: np.ndarray,
    *,
    appearance: float,
    smoothness: float,
    steps: int,
) -> np.ndarray:
    """(h, w) float32 probabilities of the mask after `steps` steps; each kernel's weights add up to one at a pixel.

    unary_hw: log odds in the lattice's window; the mask is empty outside it.
    whole_hw: in that window, the lattice of the whole image applied to ones.
    """
    odds = unary_hw
    for _ in range(steps):
        probable = 1 / (1 + np.exp(-odds))
        alike = lattice.filter(probable) / whole_hw
        near = cv2.GaussianBlur(probable, (0, 0), 1, borderType=cv2.BORDER_REPLICATE)
        odds = unary_hw + appearance * (2 * alike - 1) + smoothness * (2 * near - 1)
    return 1 / (1 + np.exp(-odds))
