"""Masks to test with: drawn by hand, and random ones."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def drawn(*pictures: str) -> np.ndarray:
    """(N, H, W) masks from pictures such as `##. .#.`, a word a row."""
    return np.array([[[c == "#" for c in row] for row in picture.split()] for picture in pictures])


THREE = drawn(
    "##.. ##.. .... ....",
    ".##. .##. .... ....",
    "#### #### ..## ....",
)


@st.composite
def random_masks(draw: st.DrawFn) -> np.ndarray:
    n, height, width = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 140)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = rng.random((n, height, width)) < draw(st.sampled_from([0.02, 0.5, 1.0]))
    found[rng.random(n) < 0.2] = False
    return found


def blobs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Ellipses of all sizes, one of them empty and one of them everything."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centres, radii = rng.random((count, 2)) * (height, width), rng.uniform(1, 0.5 * min(height, width), (count, 2))
    drawn = np.stack(
        [((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 for (cy, cx), (ry, rx) in zip(centres, radii, strict=True)]
    )
    drawn[0], drawn[-1] = False, True
    return drawn
