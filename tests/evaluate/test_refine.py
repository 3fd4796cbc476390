from dataclasses import replace

import numpy as np
import pytest

from sohes import masks
from sohes.evaluate.refine import refine_masks

RULES = {"refiner": "guided", "outline_error": 8 / 96, "longest": 1024, "refine_min_iou": 0.5, "nms_iou": 0.9}


def scene(size=96):
    """A red square on green, its mask moved by 4 pixels as in a map with 8-pixel cells, and the true mask."""
    image = np.full((size, size, 3), (40, 160, 60), np.uint8)
    image[20:76, 20:76] = (200, 40, 40)
    coarse = np.zeros((1, size, size), bool)
    coarse[0, 24:80, 24:80] = True
    truth = np.zeros((size, size), bool)
    truth[20:76, 20:76] = True
    return image, coarse, truth


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_outlines_move_to_edges_in_the_image():
    image, coarse, truth = scene()
    found = masks.mask_set(coarse, scores=np.array([0.7]), sources="instruct")
    refined = refine_masks(image, found, **RULES)
    assert iou(coarse[0], truth) < 0.8
    assert iou(masks.decode(refined)[0], truth) > 0.98
    assert refined.scores.tolist() == found.scores.tolist()
    assert refined.sources == ("instruct",)


def test_a_large_photograph_is_refined_at_a_smaller_size():
    image, coarse, truth = (np.kron(part, np.ones((4, 4) + (1,) * (part.ndim - 2), part.dtype)) for part in scene_hw())
    refined = refine_masks(image, masks.mask_set(coarse[None]), **{**RULES, "longest": 96})
    assert (refined.height, refined.width) == (384, 384)
    assert iou(masks.decode(refined)[0], truth) > 0.97


def scene_hw():
    image, coarse, truth = scene()
    return image, coarse[0], truth


def test_without_a_refiner_nothing_changes():
    image, coarse, _ = scene()
    found = masks.mask_set(coarse)
    assert refine_masks(image, found, **{**RULES, "refiner": "none"}) is found
    empty = masks.empty_mask_set(96, 96)
    assert refine_masks(image, empty, **RULES) is empty


def test_a_mask_that_would_change_too_much_stays_as_it_is():
    image, coarse, _ = scene()
    found = masks.mask_set(coarse)
    assert refine_masks(image, found, **{**RULES, "refine_min_iou": 1.0}).rles == found.rles


def test_of_two_masks_that_become_alike_the_better_one_stays():
    image, coarse, truth = scene()
    shifted = np.roll(coarse[0], -8, (0, 1))  # to the other side of the true position
    assert iou(coarse[0], shifted) < 0.9
    found = masks.mask_set(np.stack([coarse[0], shifted]), scores=np.array([0.9, 0.8]))
    refined = refine_masks(image, found, **RULES)
    assert refined.scores.tolist() == pytest.approx([0.9])
    assert iou(masks.decode(refined)[0], truth) > 0.98


def test_a_parent_stays_larger_than_its_children():
    image, coarse, _ = scene()
    inside = np.zeros_like(coarse[0])
    inside[30:60, 30:60] = True
    found = replace(masks.mask_set(np.stack([coarse[0], inside])), parents=np.array([-1, 0]))
    refined = refine_masks(image, found, **RULES)
    areas = masks.areas(refined)
    assert all(areas[parent] > areas[j] for j, parent in enumerate(refined.parents) if parent >= 0)
