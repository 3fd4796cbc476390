from __future__ import annotations

import cv2
import numpy as np
import pytest

from sohes.explore.refine import Refiner, guided, make_refiner
from sohes.explore.refine.guided import GuidedRefiner
from sohes.explore.refine.none import NoRefiner
from sohes.masks.packed import pack


def disc(size: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2


def in_patches(mask_HW: np.ndarray, patch: int) -> np.ndarray:
    """The mask as a grid of patches shows it."""
    h, w = mask_HW.shape[0] // patch, mask_HW.shape[1] // patch
    cells = mask_HW.reshape(h, patch, w, patch).mean((1, 3)) > 0.5
    return np.kron(cells, np.ones((patch, patch), bool))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def photograph(mask_HW: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mask in red on blue, with a camera's noise."""
    colours = np.where(mask_HW[..., None], (190, 70, 60), (60, 90, 160))
    noise = np.random.default_rng(seed).normal(0, 8, colours.shape)
    return (colours + noise).clip(0, 255).astype(np.uint8)


def refined_by(refiner: Refiner, image_HW3: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
    return refiner.refine(image_HW3, pack(masks_NHW, size=masks_NHW.shape[1:])).unpacked()


def plain_guided_filter(guide: np.ndarray, alpha: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """The paper's formulas, window by window; windows are reflected at the border."""
    side = 2 * radius + 1

    def windows(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, [(radius, radius)] * 2 + [(0, 0)] * (array.ndim - 2), mode="symmetric")
        found = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))
        return np.moveaxis(found, (-2, -1), (2, 3)).reshape(*array.shape[:2], side * side, *array.shape[2:])

    colours, values = windows(guide), windows(alpha)
    slopes, offsets = np.empty_like(guide), np.empty_like(alpha)
    for y in range(alpha.shape[0]):
        for x in range(alpha.shape[1]):
            covariance = np.cov(colours[y, x].T, bias=True) + epsilon * np.eye(3)
            shared = (colours[y, x] * values[y, x][:, None]).mean(0) - colours[y, x].mean(0) * values[y, x].mean()
            slopes[y, x] = np.linalg.solve(covariance, shared)
            offsets[y, x] = values[y, x].mean() - slopes[y, x] @ colours[y, x].mean(0)
    return (windows(slopes).mean(2) * guide).sum(2) + windows(offsets).mean(2)


def test_the_filter_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 30, 3)).astype(np.uint8)
    mask = np.zeros((24, 30), bool)
    mask[8:16, 9:21] = True
    image[mask] //= 2
    expected = plain_guided_filter(image / 255, mask.astype(float), radius=3, epsilon=1e-3)
    (found,) = refined_by(GuidedRefiner(patch=2, radius=1.5, epsilon=1e-3), image, mask[None])
    inside = (expected > 0.5).astype(np.uint8)
    clear = np.abs(expected - 0.5) > 0.005  # where rounding does not decide, all around
    clear = cv2.erode(clear.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
    clear[[0, -1]] = clear[:, [0, 1, 2, -3, -2, -1]] = False  # beyond two radii of the mask
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(found[clear], cv2.medianBlur(inside, 3)[clear] == 1)


@pytest.mark.parametrize("seed", range(20))
def test_its_loops_give_what_opencv_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, step, radius = (int(n) for n in rng.integers((1, 1, 1, 1), (60, 150, 9, 6)))
    mask = rng.random((height, width)) < rng.choice([0.01, 0.5, 1])
    mask[rng.integers(height), rng.integers(width)] = True
    np.testing.assert_array_equal(guided._majority(mask), cv2.medianBlur(mask.view(np.uint8), 3) == 1)

    expected = guided._reduced(mask.astype(np.float32), step)
    alpha = np.zeros_like(expected)
    packed = pack(mask[None], size=mask.shape)
    row0, word0, row1, word1 = packed.boxes_N4[0]
    words = packed.words.reshape(row1 - row0, word1 - word0)
    guided._cover(words, row0, 64 * word0, (0, 0, *alpha.shape), step, height, width, alpha)
    np.testing.assert_allclose(alpha, expected, atol=1e-6)

    side = 2 * radius + 1
    means = cv2.boxFilter(alpha, -1, (side, side), borderType=cv2.BORDER_REFLECT)
    guided._average(alpha, radius)
    np.testing.assert_allclose(alpha, means, atol=1e-6)


@pytest.mark.parametrize(("size", "patch"), [(128, 8), (131, 8), (512, 32)])
def test_outlines_move_from_the_patches_to_the_edges(size: int, patch: int) -> None:
    truth = disc(size, (size * 0.45, size * 0.55), size * 0.27)
    whole = -(-size // patch) * patch
    padded = np.pad(truth, (0, whole - size), mode="edge")
    coarse = in_patches(padded, patch)[:size, :size]
    (refined,) = refined_by(make_refiner("guided", patch=patch), photograph(truth), coarse[None])
    assert iou(coarse, truth) < 0.95
    assert iou(refined, truth) > 0.975


def test_reducing_the_image_changes_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = disc(256, (120, 130), 70)
    image, coarse = photograph(truth), in_patches(truth, 16)[None]
    fast = refined_by(GuidedRefiner(patch=16), image, coarse)[0]
    monkeypatch.setattr("sohes.explore.refine.guided.WORKING_RADIUS", 1000)
    exact = refined_by(GuidedRefiner(patch=16), image, coarse)[0]
    assert iou(fast, exact) > 0.98


def test_masks_are_refined_each_for_itself() -> None:
    truth = np.stack([disc(96, (30, 30), 18), disc(96, (60, 62), 22), np.zeros((96, 96), bool)])
    image = photograph(truth.any(0))
    coarse = np.stack([in_patches(mask, 8) for mask in truth])
    refiner = make_refiner("guided", patch=8)
    together = refined_by(refiner, image, coarse)
    assert not together[2].any()
    for mask, alone in zip(coarse, together, strict=True):
        np.testing.assert_array_equal(refined_by(refiner, image, mask[None])[0], alone)


def test_a_mask_of_everything_stays() -> None:
    image = photograph(disc(64, (32, 32), 20))
    assert refined_by(make_refiner("guided", patch=8), image, np.ones((1, 64, 64), bool)).all()


def test_no_refinement() -> None:
    coarse = np.eye(8, dtype=bool)[None]
    refiner = make_refiner("none", patch=8)
    assert isinstance(refiner, NoRefiner)
    np.testing.assert_array_equal(refined_by(refiner, np.zeros((8, 8, 3), np.uint8), coarse), coarse)
    assert refiner.label_free
    assert make_refiner("guided", patch=8).label_free
    with pytest.raises(ValueError, match="got 'crf'"):
        make_refiner("crf", patch=8)
