"""The dynamic threshold on what the demo's trained teacher said of 32 held-out scenes (`record_teacher_scores.py`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sohes.train.threshold import theta_score

SIDE = 192  # pixels of a scene
PAPER = {"theta_score_small": 0.3, "theta_score_large": 0.7, "gamma": 200}


@pytest.fixture(scope="module")
def said() -> dict[str, np.ndarray]:
    """Scores, areas (of the image) and best IoUs of every mask, and which are small by COCO's areas."""
    with np.load(Path(__file__).with_name("teacher_scores.npz")) as file:
        recorded = {name: file[name].astype(np.float64) for name in ("scores", "areas", "ious")}
    pixels = recorded["areas"] * SIDE**2
    sizes = {"S": pixels < 32**2, "M": (pixels >= 32**2) & (pixels < 96**2), "L": pixels >= 96**2}
    return {**recorded, **sizes}


def kept(said, **threshold) -> np.ndarray:
    return said["scores"] > theta_score(said["areas"], **threshold)


def fixed(value: float) -> dict[str, float]:
    return {"theta_score_small": value, "theta_score_large": value, "gamma": 200}


def by_size(said, chosen) -> list[int]:
    return [int((chosen & said[size]).sum()) for size in "SML"]


def test_the_teacher_is_a_trained_one(said):
    """Its scores rise with quality in every size: without that, no threshold could tell right from wrong."""
    for size in "SML":
        scores, right = said["scores"][said[size]], said["ious"][said[size]] >= 0.5
        assert right.sum() > 30
        assert scores[right].mean() > scores[~right].mean() + 0.01, size


def test_more_small_masks_than_the_fixed_threshold_of_table_3(said):
    dynamic, flat = by_size(said, kept(said, **PAPER)), by_size(said, kept(said, **fixed(0.7)))
    assert dynamic[0] > 1.8 * flat[0]
    assert dynamic[1:] == pytest.approx(flat[1:], abs=2)  # what is large enough meets the same threshold


def test_more_small_masks_than_a_fixed_threshold_that_keeps_as_many_in_all(said):
    dynamic = kept(said, **PAPER)
    level = np.sort(said["scores"])[-int(dynamic.sum()) - 1]
    assert 0.3 < level < 0.7
    flat = kept(said, **fixed(float(level)))
    assert flat.sum() == pytest.approx(dynamic.sum(), rel=0.01)
    (small, middle, large), (small_flat, middle_flat, large_flat) = by_size(said, dynamic), by_size(said, flat)
    assert small > 1.25 * small_flat
    assert middle < middle_flat
    assert large < large_flat
