import sys

import numpy as np
import pytest

from sohes.explore.peers.maskcut import WEAK, maskcut, second_eigenvector


def scene(size: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of a background with two objects, each of its own direction, and the two objects."""
    large, small = np.zeros((2, size, size), bool)
    large[2:8, 2:7] = True
    small[9:11, 8:11] = True
    features = np.zeros((size, size, 3), np.float32)
    features[..., 0] = 1
    features[large] = (0, 1, 0)
    features[small] = (0, 0, 1)
    noise = np.random.default_rng(0).normal(scale=0.02, size=features.shape)
    return (features + noise).astype(np.float32), large, small


def test_the_objects_are_cut_out_one_after_the_other():
    features, large, small = scene()
    found = maskcut(features, tau=0.5, cuts=2)
    assert {mask.tobytes() for mask in found} == {large.tobytes(), small.tobytes()}


def test_cuts_do_not_overlap_and_are_no_more_than_asked_for():
    features, _, _ = scene()
    for cuts in (1, 3, 6):
        found = maskcut(features, tau=0.5, cuts=cuts)
        assert 1 <= len(found) <= cuts
        assert found.sum(0).max() == 1
        assert found.any((1, 2)).all()


def test_the_vector_solves_the_generalised_problem():
    random = np.random.default_rng(1)
    half = np.triu(random.random((20, 20)) > 0.6, 1)
    alike = half | half.T | np.eye(20, dtype=bool)
    weights = np.where(alike, 1, WEAK)
    degree = weights.sum(1)
    values, vectors = np.linalg.eigh((np.diag(degree) - weights) / np.sqrt(np.outer(degree, degree)))
    expected = vectors[:, 1] / np.sqrt(degree)
    ours = second_eigenvector(alike)
    cosine = abs(expected @ ours) / np.linalg.norm(expected) / np.linalg.norm(ours)
    assert values[1] < values[2] - 1e-3
    assert cosine == pytest.approx(1, abs=1e-3)


def test_the_same_features_give_the_same_masks():
    features, _, _ = scene()
    first, second = (maskcut(features, tau=0.5, cuts=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_patches_are_alike_every_run_finds_the_same(value):
    """No eigenvector is the second one there, and the solver has to draw vectors."""
    flat = np.full((16, 16, 3), value, np.float32)
    first, *others = (maskcut(flat, tau=0.15, cuts=3) for _ in range(5))
    for other in others:
        np.testing.assert_array_equal(first, other)


def cuts_of(monkeypatch, *vectors):
    """What MaskCut finds where the successive eigenvectors are high in these masks."""
    given = iter([np.where(vector, 2.0, -0.1).ravel() for vector in vectors])
    monkeypatch.setattr(sys.modules[maskcut.__module__], "second_eigenvector", lambda alike_nn: next(given))
    return maskcut(np.ones((*vectors[0].shape, 2), np.float32), tau=0.5, cuts=len(vectors))


def square(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((20, 20), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_a_later_cut_of_a_hundredth_of_the_patches_is_dropped(monkeypatch):
    first = square(2, 2, 8, 8)
    assert len(cuts_of(monkeypatch, first, square(14, 14, 1, 4))) == 1  # 4 of 400 patches
    assert len(cuts_of(monkeypatch, first, square(14, 14, 1, 5))) == 2
    assert len(cuts_of(monkeypatch, square(14, 14, 1, 4))) == 1  # the first one may be


def test_a_later_cut_that_resembles_the_one_before_is_dropped(monkeypatch):
    first = square(2, 2, 8, 8)
    assert len(cuts_of(monkeypatch, first, square(2, 2, 8, 15))) == 1  # IoU 8/15
    assert len(cuts_of(monkeypatch, first, square(2, 2, 8, 16))) == 2  # 1/2


def test_features_without_direction_are_no_error():
    assert maskcut(np.zeros((4, 4, 2), np.float32), tau=0.5, cuts=2).shape[1:] == (4, 4)


@pytest.mark.parametrize(("shape", "most"), [((1, 1), 0), ((1, 2), 2), ((2, 1), 2), ((1, 3), 3)])
def test_maps_of_few_patches_are_cut_too(shape, most):
    for features in (np.ones((*shape, 2)), np.eye(3)[: shape[0] * shape[1]].reshape(*shape, 3)):
        found = maskcut(features.astype(np.float32), tau=0.5, cuts=3)
        assert found.shape[1:] == shape
        assert len(found) <= most
        assert (found.sum(0) <= 1).all()


def test_two_patches_have_the_second_vector_of_the_generalised_problem():
    for alike in (np.eye(2, dtype=bool), np.ones((2, 2), bool)):
        vector = second_eigenvector(alike)
        np.testing.assert_allclose(abs(vector[0]), abs(vector[1]))
        assert vector[0] * vector[1] < 0
