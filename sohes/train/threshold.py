"""The teacher's score threshold, which depends on a mask's area (paper 3.3)."""

from __future__ import annotations

import numpy as np


def theta_score(
    area_fraction: np.ndarray, *, theta_score_small: float, theta_score_large: float, gamma: float
) -> np.ndarray:
    """The score that a teacher's mask of this area must exceed (paper 3.3, equation 3). area_fraction: of the image.

    Goes from `theta_score_small` at area 0 to `theta_score_large`. The paper's rises: small entities score lower, and
    one threshold for all would drop them. Where large ones score lower, it may fall (ours). Twice the same number is a
    fixed threshold (table 3).
    """
    rise = 1 - (1 - area_fraction) ** gamma
    return rise * (theta_score_large - theta_score_small) + theta_score_small
