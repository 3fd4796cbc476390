import numpy as np
import pytest

from sohes.train.threshold import theta_score

PAPER = {"theta_score_small": 0.3, "theta_score_large": 0.7, "gamma": 200}


def test_the_threshold_rises_from_small_to_large_masks():
    areas = np.array([0.0, 0.0001, 0.001, 0.01, 0.1, 1.0])
    wanted = theta_score(areas, **PAPER)
    assert wanted[0] == pytest.approx(0.3)
    assert wanted[-1] == pytest.approx(0.7)
    assert (np.diff(wanted) > 0).all()
    assert wanted[3] == pytest.approx(0.3 + 0.4 * (1 - 0.99**200))


def test_it_falls_where_large_masks_need_less():
    areas = np.array([0.0, 0.001, 0.01, 0.1, 1.0])
    wanted = theta_score(areas, theta_score_small=0.75, theta_score_large=0.52, gamma=40)
    assert wanted[0] == pytest.approx(0.75)
    assert wanted[-1] == pytest.approx(0.52)
    assert (np.diff(wanted) < 0).all()


def test_equal_ends_make_a_fixed_threshold():
    wanted = theta_score(np.linspace(0, 1, 7), theta_score_small=0.5, theta_score_large=0.5, gamma=200)
    assert wanted == pytest.approx(np.full(7, 0.5))
