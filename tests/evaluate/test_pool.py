from dataclasses import replace

import numpy as np
import pytest

from sohes import masks
from sohes.evaluate.pool import pool
from sohes.masks import forest

RULES = {"size": (40, 60), "nms_iou": 0.9, "coverage": False, "theta_cover": 0.9, "max_masks": 100}


def found_in(*boxes, scores, parents=None):
    shown = np.zeros((len(boxes), 40, 60), bool)
    for mask, (y0, x0, y1, x1) in zip(shown, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks.mask_set(shown, scores=np.array(scores), parents=parents, sources="correct")


def test_a_single_window_is_as_it_was():
    only = found_in((0, 0, 9, 9), (0, 0, 9, 9), scores=[0.5, 0.5])
    pooled, of_window = pool([only], [0.1], **RULES)
    assert pooled is only
    assert of_window.tolist() == [0, 0]


def test_of_two_windows_that_find_the_same_mask_the_better_score_stays():
    whole, tile = found_in((5, 5, 25, 25), scores=[0.8]), found_in((5, 5, 25, 24), (0, 40, 3, 43), scores=[0.85, 0.4])
    pooled, of_window = pool([whole, tile], [1, 0.9], **RULES)
    np.testing.assert_allclose(pooled.scores, [0.8, 0.36], rtol=1e-6)  # 0.85 x 0.9 comes second
    assert of_window.tolist() == [0, 1]
    assert pooled.rles == (whole.rles[0], tile.rles[1])
    assert pool([whole, tile], [1, 1], **RULES)[1].tolist() == [1, 1]
    assert len(pool([whole, tile], [1, 1], **{**RULES, "max_masks": 1})[0]) == 1


def test_across_windows_coverage_makes_ancestors_and_within_one_the_network_does():
    whole = found_in((0, 0, 30, 30), (1, 1, 9, 9), scores=[0.9, 0.8])  # the network denies that the second is a part
    tile = found_in((2, 2, 20, 20), (4, 4, 8, 8), (3, 3, 9, 9), scores=[0.7, 0.6, 0.5], parents=[-1, 0, 0])
    pooled, _ = pool([whole, tile], [1, 1], **RULES)
    # the second covers the last two as well, but only below the third are they in the first, too
    assert pooled.parents.tolist() == [-1, -1, 0, 2, 2]
    whole = found_in((0, 0, 30, 30), (1, 1, 9, 9), scores=[0.9, 0.8], parents=[-1, 0])
    assert pool([whole, tile], [1, 1], **RULES)[0].parents.tolist() == [-1, 0, 0, 1, 1]  # 0.8 is better than 0.7


def test_with_coverage_a_window_denies_nothing_that_masks_show_and_claims_nothing_that_they_do_not():
    claimed = found_in((0, 0, 30, 30), (1, 1, 9, 9), (0, 24, 10, 40), scores=[0.9, 0.8, 0.7], parents=[-1, -1, 0])
    tile = found_in((30, 50, 40, 60), scores=[0.6])
    assert pool([claimed, tile], [1, 1], **RULES)[0].parents.tolist() == [-1, -1, 0, -1]
    rules = {**RULES, "coverage": True}
    # of the third, 6 of 16 columns lie inside
    assert pool([claimed, tile], [1, 1], **rules)[0].parents.tolist() == [-1, 0, -1, -1]
    claimed = found_in((0, 0, 30, 30), (1, 1, 9, 9), (0, 20, 10, 40), scores=[0.9, 0.8, 0.7], parents=[-1, -1, 0])
    assert pool([claimed, tile], [1, 1], **rules)[0].parents.tolist() == [-1, 0, 0, -1]  # a half


def test_a_part_whose_parent_was_a_duplicate_keeps_its_ancestors():
    whole = found_in((0, 0, 30, 30), scores=[0.9])
    tile = found_in((0, 0, 30, 29), (5, 5, 9, 9), (6, 6, 8, 8), scores=[0.8, 0.7, 0.6], parents=[-1, 0, 1])
    pooled, _ = pool([whole, tile], [1, 1], **RULES)
    assert pooled.parents.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("size", [(40, 60), (20, 30)])
def test_what_is_pooled_is_a_forest_of_ever_larger_masks(size):
    rng = np.random.default_rng(0)
    windows = []
    for _ in range(4):
        shown = np.zeros((30, 40, 60), bool)
        for mask in shown:
            (y0, y1), (x0, x1) = (np.sort(rng.choice(side, 2, replace=False)) for side in (41, 61))
            mask[y0:y1, x0:x1] = True
        areas = shown.sum((1, 2))
        one = masks.mask_set(shown, scores=np.sort(rng.random(30))[::-1], sources="x")
        said = rng.random((30, 30)) > 0.8
        windows.append(replace(one, parents=forest.forest_from_relation(said, areas, one.scores)))
    pooled, _ = pool(windows, [1, 0.9, 0.9, 0.8], **{**RULES, "size": size, "nms_iou": 0.8})
    forest.forest_ancestors(pooled.parents)  # ValueError for a cycle
    areas, children = masks.areas(pooled), np.flatnonzero(pooled.parents >= 0)
    assert len(children) > 50
    assert (areas[pooled.parents[children]] > areas[children]).all()
    assert (np.diff(pooled.scores) <= 0).all()
    assert len(pool([masks.empty_mask_set(40, 60)] * 2, [1, 1], **RULES)[0]) == 0
