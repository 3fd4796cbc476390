from __future__ import annotations

import numpy as np
import pytest

from sohes.explore.refine.lattice import build_lattice


def dense_kernel(features_HW5: np.ndarray) -> np.ndarray:
    """(P, P) exp(-|f - g|^2 / 2) of all pairs."""
    points = features_HW5.reshape(-1, features_HW5.shape[-1]).astype(np.float64)
    return np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(2))


def picture(seed: int, spread: float) -> np.ndarray:
    """(14, 18, 5) features: places, and colours that run smoothly with some grain, in deviations."""
    random = np.random.default_rng(seed)
    ys, xs = np.mgrid[:14, :18] / 4
    colour = np.dstack([np.sin(ys), np.cos(xs), (ys + xs) / 3]) * spread
    return np.dstack([ys, xs, colour + 0.2 * random.standard_normal(colour.shape)])


@pytest.mark.parametrize("spread", [0.5, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lattice_is_near_the_sum_over_all_pairs(seed: int, spread: float) -> None:
    features = picture(seed, spread)
    lattice, kernel = build_lattice(features), dense_kernel(features)
    values = np.random.default_rng(seed).random((14, 18)) < 0.3
    exact = kernel @ values.ravel() / kernel.sum(1)
    found = (lattice.filter(values) / lattice.filter(np.ones((14, 18)))).ravel()
    assert np.abs(found - exact).mean() < 0.03
    assert np.corrcoef(found, exact)[0, 1] > 0.97


def test_far_points_do_not_reach_each_other_and_near_ones_share() -> None:
    features = np.zeros((2, 6, 5))
    features[:, 3:, 2] = 40.0  # two colours, far apart
    values = np.zeros((2, 6))
    values[:, 0] = 1
    found = build_lattice(features).filter(values)
    np.testing.assert_array_equal(found[:, 3:], 0)
    np.testing.assert_allclose(found[:, :3], found[0, 0], rtol=1e-5)
    assert found[0, 0] > 0


def test_a_window_is_the_picture_with_zeros_round_it() -> None:
    lattice = build_lattice(picture(3, 1.0))
    inside = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    values = np.zeros((14, 18), np.float32)
    values[4:9, 6:13] = inside
    found = lattice.window((4, 6, 9, 13)).filter(inside)
    np.testing.assert_allclose(found, lattice.filter(values)[4:9, 6:13], rtol=0.01)
    whole = lattice.window((0, 0, 14, 18)).filter(values)
    np.testing.assert_allclose(whole, lattice.filter(values), rtol=1e-5)


def test_filtering_is_linear_and_the_same_each_time() -> None:
    lattice = build_lattice(picture(4, 1.0))
    a, b = np.random.default_rng(1).random((2, 14, 18)).astype(np.float32)
    np.testing.assert_allclose(lattice.filter(a + 2 * b), lattice.filter(a) + 2 * lattice.filter(b), rtol=1e-4)
    np.testing.assert_array_equal(lattice.filter(a), build_lattice(picture(4, 1.0)).filter(a))


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"five features are needed \(got 3\)"):
        build_lattice(np.zeros((2, 2, 3)))
    far = np.zeros((2, 2, 5))
    far[0, 0, 1] = 5000
    with pytest.raises(ValueError, match=r"too many standard deviations \(got 5000\)"):
        build_lattice(far)
