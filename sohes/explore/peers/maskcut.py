"""MaskCut: object after object by normalised cuts (TokenCut, Wang et al., 2022; CutLER, Wang et al., 2023)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, eigsh

from sohes.explore.merge.tree import unit_features

WEAK = 1e-5  # affinity of dissimilar patches, and of patches that an earlier cut has taken


def maskcut(features_hwC: np.ndarray, *, tau: float, cuts: int) -> np.ndarray:
    """(N, h, w) bool, N <= cuts: foregrounds of successive normalised cuts, without what earlier ones have taken.

    The affinity of two patches is 1 if their cosine exceeds `tau`, else WEAK. The second eigenvector of the normalised
    Laplacian, thresholded at its mean, splits the image. The foreground is the side of the patch with the largest
    magnitude, or the other side if that one holds more than two corners of the image; of it, only the component of its
    largest patch is kept. Its patches are disconnected before the next cut. Stops early when nothing new is found.
    """
    height, width, _ = features_hwC.shape
    unit_nC = unit_features(features_hwC.reshape(height * width, -1))
    alike_nn = unit_nC @ unit_nC.T > tau
    taken_hw = np.zeros((height, width), bool)
    found = []
    for _ in range(cuts):
        vector_hw = second_eigenvector(alike_nn).reshape(height, width)
        foreground_hw = _foreground(vector_hw) & ~taken_hw
        if not foreground_hw.any():
            break
        found.append(foreground_hw)
        taken_hw |= foreground_hw
        loose_n = taken_hw.ravel()
        alike_nn = alike_nn & ~loose_n[:, None] & ~loose_n[None, :]
    return np.stack(found) if found else np.zeros((0, height, width), bool)


def second_eigenvector(alike_nn: np.ndarray) -> np.ndarray:
    """(n,) float64: the generalised eigenvector of (D - W) x = lambda D x with the second smallest lambda.

    W is 1 where patches are alike and WEAK elsewhere. Found as the second largest of D^-1/2 W D^-1/2, whose product
    with a vector needs no dense matrix of floats. The entry of the largest magnitude is made positive.
    """
    n = len(alike_nn)
    counts = alike_nn.astype(np.float32)
    scale_n = 1 / np.sqrt(counts.sum(1, dtype=np.float64) * (1 - WEAK) + WEAK * n)

    def times(x: np.ndarray) -> np.ndarray:
        y = scale_n * x.ravel()
        return scale_n * ((1 - WEAK) * (counts @ y.astype(np.float32)) + WEAK * y.sum())

    start = np.random.default_rng(0).standard_normal(n)  # ARPACK's default start differs from run to run
    _, vectors = eigsh(LinearOperator((n, n), matvec=times, dtype=np.float64), k=2, which="LA", v0=start, tol=1e-4)
    vector = scale_n * vectors[:, 0]  # eigenvalues ascend, so the second largest comes first
    return vector * np.sign(vector[np.abs(vector).argmax()])


def _foreground(vector_hw: np.ndarray) -> np.ndarray:
    """The side of the largest magnitude, or the other if that looks like background: one connected component of it."""
    side_hw = vector_hw > vector_hw.mean()
    if side_hw[[0, 0, -1, -1], [0, -1, 0, -1]].sum() > 2:
        side_hw, vector_hw = ~side_hw, -vector_hw
    pieces_hw, _ = ndimage.label(side_hw)
    if not side_hw.any():
        return side_hw
    seed = np.where(side_hw, vector_hw, -np.inf).argmax()
    return pieces_hw == pieces_hw.ravel()[seed]
