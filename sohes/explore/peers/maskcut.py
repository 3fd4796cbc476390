"""MaskCut: object after object by normalised cuts (TokenCut, Wang et al., 2022; CutLER, Wang et al., 2023)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse.linalg import LinearOperator, eigsh

from sohes.explore.merge.tree import unit_features

SAME_IOU = 0.5  # a cut that overlaps the one before it more is no other object, and
LEAST_SHARE = 0.01  # one of at most this share of the patches is noise; both as in CutLER's code
WEAK = 1e-5  # affinity of dissimilar patches, and of patches that an earlier cut has taken


def maskcut(features_hwC: np.ndarray, *, tau: float, cuts: int) -> np.ndarray:
    """(N, h, w) bool, N <= cuts: foregrounds of successive normalised cuts, without what earlier ones have taken.

    The affinity of two patches is 1 if their cosine exceeds `tau`, else WEAK. The second eigenvector of the normalised
    Laplacian, thresholded at its mean, splits the image. The foreground is the side of the patch with the largest
    magnitude, or the other side if that one holds more than two corners of the image; of it, only the component of its
    largest patch is kept. Its patches are disconnected before the next cut. As in CutLER's code, a cut after the first
    is dropped if it covers LEAST_SHARE of the patches or less, or if its IoU with the cut before exceeds SAME_IOU.
    Ours: the cuts end there, and where nothing new is found, since the next one would be the same. A single patch has
    no cut.
    """
    height, width, _ = features_hwC.shape
    if height * width < 2:
        return np.zeros((0, height, width), bool)
    unit_nC = unit_features(features_hwC.reshape(height * width, -1))
    alike_nn = unit_nC @ unit_nC.T > tau
    taken_hw = np.zeros((height, width), bool)
    before_hw = None
    found = []
    for _ in range(cuts):
        cut_hw = _foreground(second_eigenvector(alike_nn).reshape(height, width))
        if before_hw is not None and (cut_hw.mean() <= LEAST_SHARE or _iou(cut_hw, before_hw) > SAME_IOU):
            break
        new_hw = cut_hw & ~taken_hw
        if not new_hw.any():
            break
        found.append(new_hw)
        before_hw, taken_hw = cut_hw, taken_hw | cut_hw
        loose_n = taken_hw.ravel()
        alike_nn = alike_nn & ~loose_n[:, None] & ~loose_n[None, :]
    return np.stack(found) if found else np.zeros((0, height, width), bool)


def second_eigenvector(alike_nn: np.ndarray) -> np.ndarray:
    """(n,) float64: the generalised eigenvector of (D - W) x = lambda D x with the second smallest lambda.

    W is 1 where patches are alike and WEAK elsewhere. Found as the second largest of D^-1/2 W D^-1/2, whose product
    with a vector needs no dense matrix of floats. The entry of the largest magnitude is made positive. Where several
    vectors share that lambda, as where all patches are alike, it is an arbitrary one of them, but always the same.
    ValueError for fewer than two patches.
    """
    n = len(alike_nn)
    if n < 2:
        raise ValueError(f"{n} patches have no second eigenvector")
    counts = alike_nn.astype(np.float32)
    scale_n = 1 / np.sqrt(counts.sum(1, dtype=np.float64) * (1 - WEAK) + WEAK * n)

    def times(x: np.ndarray) -> np.ndarray:
        y = scale_n * x.ravel()
        return scale_n * ((1 - WEAK) * (counts @ y.astype(np.float32)) + WEAK * y.sum())

    rng = np.random.default_rng(0)  # by default ARPACK's start, and its restarts, differ from run to run
    start = rng.standard_normal(n)
    operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
    if n == 2:  # ARPACK finds fewer vectors than there are patches
        _, vectors = np.linalg.eigh(operator @ np.eye(n))
    else:
        _, vectors = eigsh(operator, k=2, which="LA", v0=start, tol=1e-4, rng=rng)
    vector = scale_n * vectors[:, 0]  # eigenvalues ascend, so the second largest comes first
    return vector * np.sign(vector[np.abs(vector).argmax()])


def _iou(a_hw: np.ndarray, b_hw: np.ndarray) -> float:
    return (a_hw & b_hw).sum() / max(1, (a_hw | b_hw).sum())


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
