from __future__ import annotations

import numpy as np
import pytest

from sohes.backbone.handmade import handmade_features

RED, BLUE, GREY = (200, 40, 40), (40, 60, 200), (128, 128, 128)


def image_of(*columns: tuple[int, int, int], side: int = 32) -> np.ndarray:
    """Stripes of one colour each, `side` pixels square."""
    return np.concatenate([np.full((side, side, 3), colour, np.uint8) for colour in columns], 1)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_shape_and_type() -> None:
    features = handmade_features(np.zeros((24, 40, 3), np.uint8), patch_size=8)
    assert features.shape[:2] == (3, 5)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, handmade_features(np.zeros((24, 40, 3), np.uint8), patch_size=8))


def test_similar_colours_are_alike_and_others_are_not() -> None:
    image = image_of(RED, (190, 45, 50), BLUE, GREY)
    red, other_red, blue, grey = handmade_features(image, patch_size=8)[2, 2::4]
    assert cosine(red, other_red) > 0.6
    assert max(cosine(red, blue), cosine(red, grey), cosine(blue, grey)) < 0.3


def test_noise_does_not_matter_much() -> None:
    noise = np.random.default_rng(0).normal(0, 8, (32, 64, 3))
    image = (image_of(RED, BLUE) + noise).clip(0, 255).astype(np.uint8)
    features = handmade_features(image, patch_size=8)
    assert cosine(features[0, 0], features[3, 2]) > 0.6
    assert cosine(features[0, 0], features[0, 7]) < 0.1


def test_texture_tells_what_the_mean_colour_does_not() -> None:
    chequered = np.where((np.indices((32, 32)) // 4).sum(0)[..., None] % 2, 60, 190).astype(np.uint8)
    image = np.concatenate([np.repeat(chequered, 3, 2), image_of((125, 125, 125))], 1)
    features = handmade_features(image, patch_size=8)
    assert cosine(features[1, 1], features[2, 2]) > 0.8
    assert cosine(features[1, 1], features[1, 6]) < 0.5


def test_a_regions_mean_embeds_its_distribution() -> None:
    """A row of red and blue patches as a whole is like another such row, and like neither colour alone."""
    mixed = image_of(RED, BLUE, RED, BLUE, side=8)
    features = handmade_features(
        np.concatenate([mixed, mixed[:, ::-1], image_of(GREY, side=32)[:8].repeat(1, 1)]), patch_size=8
    )
    first, second = features[0].mean(0), features[1].mean(0)
    assert cosine(first, second) > 0.95
    assert cosine(first, features[0, 0]) < 0.9


@pytest.mark.parametrize("size", [(30, 32), (32, 36)])
def test_an_image_of_broken_patches_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got {size[0]} x {size[1]}"):
        handmade_features(np.zeros((*size, 3), np.uint8), patch_size=8)


def test_odd_patches() -> None:
    assert handmade_features(np.zeros((21, 14, 3), np.uint8), patch_size=7).shape[:2] == (3, 2)
