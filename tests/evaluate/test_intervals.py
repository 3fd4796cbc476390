import numpy as np
import pytest

from sohes.evaluate.intervals import interval, paired_interval


def test_equal_images_give_an_interval_of_width_zero():
    ratio = np.tile([1.0, 4.0], (7, 1))
    assert interval(ratio, seed=0, draws=50) == (25, 25)
    assert paired_interval(ratio, ratio, seed=0, draws=50) == (0, 0, 0)


def test_images_with_more_annotations_weigh_more():
    ratio = np.array([[9.0, 9.0], [0.0, 1.0]])  # 90 % pooled; drawing one image twice gives 100 or 0
    assert interval(ratio, seed=0, draws=400) == (0, 100)


def test_the_interval_has_the_theoretical_width():
    found = np.random.default_rng(0).random(400) < 0.3
    low, high = interval(np.stack([found, np.ones(400)], axis=1), seed=1, draws=2000)
    half = 196 * np.sqrt(found.mean() * (1 - found.mean()) / 400)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_a_pair_is_compared_image_by_image():
    hard = np.linspace(0, 1, 50)  # recall differs widely between images, the lead does not
    a, b = (np.stack([10 * hard + lead, np.full(50, 12.0)], axis=1) for lead in (1.2, 0.0))
    assert paired_interval(a, b, seed=0, draws=200) == pytest.approx((10, 10, 10))
    low, high = interval(a, seed=0, draws=200)
    assert high - low > 10


def test_without_annotations_there_is_no_interval():
    nothing = np.zeros((5, 2))
    assert interval(nothing, seed=0, draws=20) is None
    assert paired_interval(nothing, np.ones((5, 2)), seed=0, draws=20) is None
    rare = np.array([[1.0, 2.0], *np.zeros((30, 2))])
    assert interval(rare, seed=0, draws=200) == (50, 50)  # draws without the one image are left out


def test_runs_on_different_numbers_of_images_are_refused():
    with pytest.raises(ValueError, match=r"same images \(got 2 and 3\)"):
        paired_interval(np.ones((2, 2)), np.ones((3, 2)), seed=0, draws=5)
