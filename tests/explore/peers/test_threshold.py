import numpy as np
from scipy import ndimage

from sohes.explore.peers.threshold import threshold_components


def test_components_by_hand():
    features = np.array([[[1, 0], [1, 0], [0.8, 0.6]], [[0, 1], [0, 1], [0.8, 0.6]]], np.float32)
    found = threshold_components(features, thetas=(0.9, 0.7)).astype(int).tolist()
    assert found == [
        [[1, 1, 1], [0, 0, 1]],  # at 0.7 the right column joins the upper row: cosine 0.8
        [[0, 0, 0], [1, 1, 0]],  # given once, though it is the same at 0.9
        [[1, 1, 0], [0, 0, 0]],
        [[0, 0, 1], [0, 0, 1]],
    ]


def test_every_region_is_connected_and_any_two_are_nested_or_disjoint():
    features = np.random.default_rng(0).normal(size=(9, 11, 3)).astype(np.float32)
    found = threshold_components(features, thetas=(0.2, 0.5, 0.8))
    assert len(found) > 3
    assert all(ndimage.label(mask)[1] == 1 and mask.sum() > 1 for mask in found)
    shared = np.einsum("ahw,bhw->ab", found.astype(int), found.astype(int))
    smaller = np.minimum.outer(np.diagonal(shared), np.diagonal(shared))
    assert ((shared == 0) | (shared == smaller)).all()


def test_nothing_alike_is_no_region():
    assert threshold_components(np.zeros((3, 4, 2), np.float32), thetas=(0.5,)).shape == (0, 3, 4)
