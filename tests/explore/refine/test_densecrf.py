from __future__ import annotations

import cv2
import numpy as np
import pytest

from sohes.explore.refine import make_refiner
from sohes.explore.refine.densecrf import DenseCrfRefiner, mean_field, unary
from sohes.explore.refine.lattice import build_lattice
from sohes.masks.packed import pack


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def disc(size: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    ys, xs = np.mgrid[: size[0], : size[1]]
    return (ys - centre[0]) ** 2 + (xs - centre[1]) ** 2 < radius**2


def blocks(mask: np.ndarray, side: int) -> np.ndarray:
    """The mask as patches of `side` pixels would have it."""
    small = mask.reshape(mask.shape[0] // side, side, mask.shape[1] // side, side).mean((1, 3)) > 0.5
    return small.repeat(side, 0).repeat(side, 1)


@pytest.fixture
def ball() -> tuple[np.ndarray, np.ndarray]:
    """A grainy orange ball on grainy grey, and where it is."""
    mask = disc((96, 128), (50, 60), 22)
    image = np.where(mask[..., None], (220, 130, 40), (90, 100, 110)).astype(np.float64)
    image += np.random.default_rng(0).normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def test_an_outline_of_patches_moves_to_the_edge(ball) -> None:
    image, truth = ball
    patches = blocks(truth, 8)
    refined = DenseCrfRefiner(8).refine(image, pack(patches[None], size=truth.shape)).unpacked()
    assert iou(patches, truth) < 0.9
    assert iou(refined[0], truth) > 0.97


def test_each_mask_is_refined_by_itself_and_in_order(ball) -> None:
    image, truth = ball
    three = np.stack([blocks(truth, 8), blocks(disc((96, 128), (20, 100), 12), 8), np.zeros((96, 128), bool)])
    refiner = DenseCrfRefiner(8)
    together = refiner.refine(image, pack(three, size=truth.shape)).unpacked()
    for mask, alone in zip(three, together, strict=True):
        np.testing.assert_array_equal(refiner.refine(image, pack(mask[None], size=truth.shape)).unpacked()[0], alone)
    assert not together[2].any()


def test_no_masks_are_no_masks(ball) -> None:
    image, truth = ball
    assert len(DenseCrfRefiner(8).refine(image, pack(np.zeros((0, 96, 128), bool), size=truth.shape))) == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_labels_are_those_of_a_dense_reference(seed: int) -> None:
    """Mean field with the sums over all pairs of pixels written out."""
    random = np.random.default_rng(seed)
    truth = disc((24, 28), (12, 13), 7)
    image = np.where(truth[..., None], (200, 80, 60), (90, 120, 150)) + random.normal(0, 10, (24, 28, 3))
    ys, xs = np.mgrid[:24, :28] / 6
    features = np.dstack([ys, xs, image / 12])
    start = unary(blocks(np.roll(truth, 2, 1), 4), doubt=2.0)
    lattice = build_lattice(features)
    found = mean_field(start, lattice, lattice.filter(np.ones((24, 28))), appearance=6.0, smoothness=2.0, steps=5)

    points = features.reshape(-1, 5)
    alike = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(2))
    odds = start.copy()
    for _ in range(5):
        probable = 1 / (1 + np.exp(-odds))
        colour = (alike @ probable.ravel() / alike.sum(1)).reshape(24, 28)
        near = cv2.GaussianBlur(probable, (0, 0), 1, borderType=cv2.BORDER_REPLICATE)
        odds = start + 6 * (2 * colour - 1) + 2 * (2 * near - 1)
    assert ((found > 0.5) == (odds > 0)).mean() > 0.98
    assert np.abs(found - 1 / (1 + np.exp(-odds))).mean() < 0.02
    assert iou(odds > 0, truth) > 0.9


def test_it_needs_no_human_masks() -> None:
    refiner = make_refiner("densecrf", patch=8)
    assert isinstance(refiner, DenseCrfRefiner)
    assert refiner.label_free


@pytest.mark.parametrize("size", [(6, 3000), (3000, 6), (1, 1)])
@pytest.mark.parametrize("patch", [0.01, 1])
def test_a_patch_may_be_tiny_and_an_image_long(size: tuple[int, int], patch: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.arange(max(size)) < max(size) // 2
    masks = pack(np.broadcast_to(mask if size[1] == len(mask) else mask[:, None], size)[None], size=size)
    refined = DenseCrfRefiner(patch).refine(image, masks)
    assert refined.size == size
    assert iou(refined.unpacked()[0] ^ True, masks.unpacked()[0] ^ True) > 0.9
