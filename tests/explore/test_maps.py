from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sohes.backbone.handmade import handmade_features
from sohes.data.scenes.render import render_scene
from sohes.errors import SohesError
from sohes.explore.label_image import label_image
from sohes.explore.maps import backbone_taps, fused_features, make_extractor, map_extractors
from sohes.explore.merge.tree import unit_features
from sohes.params import ExploreParams, load_params


@pytest.fixture
def params(repository) -> ExploreParams:
    explore = load_params(repository / "params.yaml").explore
    return explore.model_copy(update={"image_size": 96, "crop_size": 32, "refiner": "none"})


def with_maps(params: ExploreParams, *also: dict, **changes: object) -> ExploreParams:
    return ExploreParams.model_validate(params.model_dump() | changes | {"also": also})


class Tokens:
    """A backbone of two taps with 3 channels each on patches of 16 pixels, that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        maps = [image[8::16, 8::16].astype(np.float32) / 255 + 0.1 for image in images]
        return [np.concatenate([one, 1 - one], -1) for one in maps]


def test_each_map_gets_its_own_features(params: ExploreParams) -> None:
    params = with_maps(
        params,
        {"features": "keys", "block": -2},
        {"features": "fused", "patch_size": 8, "block": -1},
        {"features": "handmade"},
        features="tokens",
    )
    assert backbone_taps(params) == [("tokens", -1), ("keys", -2)]
    tokens, image = Tokens(), render_scene(0, size=96, seed=0).image_HW3
    found = [extract([image])[0] for extract in map_extractors(tokens, params)]
    both = Tokens()([image])[0]
    colour = handmade_features(image, patch_size=8)
    np.testing.assert_array_equal(found[0], both[..., :3])
    np.testing.assert_array_equal(found[1], both[..., 3:])
    np.testing.assert_array_equal(found[2], fused_features(both[..., :3], colour, colour_weight=params.colour_weight))
    np.testing.assert_array_equal(found[3], colour)
    assert tokens.calls == 1  # the ViT runs once, however many maps there are


def test_pooled_masks_are_those_of_all_maps_without_duplicates(params: ExploreParams) -> None:
    image = render_scene(1, size=96, seed=0).image_HW3
    coarse, fine = ({"features": "handmade", "patch_size": side} for side in (16, 8))
    alone = [
        label_image(image, make_extractor(p, Path("-")), p)
        for p in (with_maps(params, **one) for one in (coarse, fine))
    ]
    params = with_maps(params, fine, **coarse)
    pooled = label_image(image, make_extractor(params, Path("-")), params)
    known = {rle for found in alone for rle in found.rles}
    assert set(pooled.rles) <= known
    assert max(map(len, alone)) < len(pooled) <= len(known)
    again = with_maps(params, {}, **coarse)  # the same map twice adds nothing
    assert set(label_image(image, make_extractor(again, Path("-")), again).rles) == set(alone[0].rles)


def test_maps_of_several_sizes_share_the_largest_view(params: ExploreParams) -> None:
    image = render_scene(1, size=96, seed=0).image_HW3
    params = with_maps(params, {"image_size": 192})
    assert len(label_image(image, make_extractor(params, Path("-")), params))


def test_a_cosine_of_fused_features_weighs_both() -> None:
    rng = np.random.default_rng(0)
    tokens, colour = (rng.normal(size=(4, 4, 5)).astype(np.float32) for _ in range(2))
    fused = fused_features(tokens, colour, colour_weight=0.5).reshape(16, -1)
    first = unit_features(tokens - np.float32(0.5) * tokens.mean((0, 1))).reshape(16, -1)
    second = unit_features(colour).reshape(16, -1)
    expected = (first @ first.T + 0.25 * second @ second.T) / 1.25
    np.testing.assert_allclose(unit_features(fused) @ unit_features(fused).T, expected, atol=1e-5)


def test_tokens_are_enlarged_to_the_grid_of_the_colours() -> None:
    tokens = np.linspace(0, 1, 2 * 3 * 600, dtype=np.float32).reshape(2, 3, 600)  # more channels than OpenCV resizes
    assert fused_features(tokens, np.ones((7, 8, 4), np.float32), colour_weight=1).shape == (7, 8, 604)


@pytest.mark.parametrize(
    ("also", "sentence"),
    [({"theta_cover": 1}, "theta_cover is the same"), ({"patch_size": -8}, "greater than 0"), ({"blok": -2}, "blok")],
)
def test_rubbish_in_a_further_map_is_named(params: ExploreParams, also: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        with_maps(params, also)


def test_peers_cluster_one_map(params: ExploreParams) -> None:
    with pytest.raises(ValueError, match="leave `also` empty"):
        with_maps(params, {"patch_size": 4}, method="maskcut")


def test_taps_are_those_of_separate_passes() -> None:
    import torch

    from sohes.backbone.vit import Backbone

    torch.manual_seed(0)
    shape = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32}
    backbone, images = Backbone("vit_tiny_patch16_224", shape).eval(), torch.randn(2, 3, 32, 32)
    wanted = [("values", -1), ("tokens", -2), ("tokens", -1), ("keys", -3)]
    with torch.no_grad():
        together = backbone.taps(images, wanted)
        apart = [backbone.tokens(images, *tap) for tap in wanted]
    torch.testing.assert_close(together, torch.cat(apart, -1))
    with pytest.raises(SohesError, match="3 blocks"):
        backbone.taps(images, [("tokens", -1), ("tokens", -4)])
