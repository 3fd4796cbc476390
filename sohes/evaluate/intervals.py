"""95 % intervals of figures by bootstrap over images.

A figure is 100 x a ratio of sums over images. `ratio_N2` holds the numerator and denominator of each image, from which
the figure can be computed for any resampling of the images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SEED, DRAWS = 0, 2000  # enough draws that the ends of an interval vary by less than a tenth of its width


def interval(ratio_N2: np.ndarray, *, seed: int = SEED, draws: int = DRAWS) -> tuple[float, float] | None:
    """The interval (low, high) of one figure, in percent; None if all denominators are zero.

    Draws whose denominators are all zero are left out.
    """
    figures = [_percent(sums_2) for (sums_2,) in _resampled([ratio_N2], seed=seed, draws=draws)]
    return _ends([figure for figure in figures if figure is not None])


def paired_interval(
    a_N2: np.ndarray, b_N2: np.ndarray, *, seed: int = SEED, draws: int = DRAWS
) -> tuple[float, float, float] | None:
    """(figure of a minus figure of b, low, high) in points; None if either has no figure.

    Both runs use the same draws, so images that are hard for both do not widen the interval. ValueError if the numbers
    of images differ.
    """
    if a_N2.shape != b_N2.shape:
        raise ValueError(f"both runs need the same images (got {len(a_N2)} and {len(b_N2)})")
    differences = [_minus(*map(_percent, sums)) for sums in _resampled([a_N2, b_N2], seed=seed, draws=draws)]
    ends = _ends([difference for difference in differences if difference is not None])
    difference = _minus(_percent(a_N2.sum(0)), _percent(b_N2.sum(0)))
    return None if difference is None or ends is None else (difference, *ends)


def _resampled(runs: list[np.ndarray], *, seed: int, draws: int) -> Iterator[list[np.ndarray]]:
    """For each draw, the (2,) sums of each run over the same resampled images."""
    random, images = np.random.default_rng(seed), len(runs[0])
    for _ in range(draws):
        times_N = np.bincount(random.integers(images, size=images), minlength=images)
        yield [times_N @ run_N2 for run_N2 in runs]


def _percent(sums_2: np.ndarray) -> float | None:
    return 100 * float(sums_2[0] / sums_2[1]) if sums_2[1] else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _ends(figures: list[float]) -> tuple[float, float] | None:
    if not figures:
        return None
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)
