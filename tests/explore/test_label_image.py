from __future__ import annotations

import numpy as np
import pytest

from sohes import masks
from sohes.data.scenes.render import render_scene
from sohes.explore import label_image as phase1
from sohes.explore.label_image import label_image
from sohes.explore.local import Candidates
from sohes.explore.maps import make_extractor
from sohes.masks.forest import forest_ancestors
from sohes.masks.packed import PackedMasks, pack
from sohes.params import ExploreParams, load_params


@pytest.fixture
def params(repository) -> ExploreParams:
    values = {
        "features": "handmade", "image_size": 128, "crop_size": 64, "patch_size": 8, "min_crop": 32,
        "theta_small": 0.01, "theta_merge": (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), "nms_iou": 0.9,
        "refiner": "guided", "refine_min_iou": 0.5,
    }  # fmt: skip
    return load_params(repository / "params.yaml").explore.model_copy(update=values)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def house() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red house with a white door on grass; the image, the house and the door."""
    image = np.full((150, 200, 3), (60, 160, 60), np.uint8)
    walls, door = np.zeros((2, 150, 200), bool)
    walls[40:120, 50:150] = True
    door[70:120, 80:115] = True
    image[walls] = (200, 40, 40)
    image[door] = (240, 240, 240)
    return image, walls, door


def test_a_house_and_its_door_are_found_at_the_images_own_size(params: ExploreParams) -> None:
    image, walls, door = house()
    found = label_image(image, make_extractor(params, None), params)
    drawn = masks.decode(found)
    assert drawn.shape[1:] == (150, 200)
    assert max(iou(mask, door) for mask in drawn) > 0.9
    assert max(iou(mask, walls & ~door) for mask in drawn) > 0.9
    assert set(found.sources) <= {"global", "local"}
    np.testing.assert_array_equal(found.scores, np.ones(len(found)))


@pytest.mark.parametrize("refiner", ["none", "guided", "densecrf"])
def test_scenes_obey_the_rules(params: ExploreParams, refiner: str) -> None:
    params = params.model_copy(update={"refiner": refiner})
    image = render_scene(3, size=160, seed=0).image_HW3
    found = label_image(image, make_extractor(params, None), params)
    area = masks.areas(found)
    assert len(found) > 5
    assert area.min() > 0
    forest_ancestors(found.parents)  # raises for a cycle
    below = np.flatnonzero(found.parents >= 0)
    assert len(below)
    assert (area[found.parents[below]] > area[below]).all()
    if refiner == "none":
        overlap = masks.iou_from_intersections(masks.intersections(masks.decode(found)))
        assert (overlap - np.eye(len(found))).max() <= params.nms_iou + 0.02  # once more at another size


def test_the_same_image_gives_the_same_labels(params: ExploreParams) -> None:
    image = render_scene(4, size=128, seed=0).image_HW3
    first, second = (label_image(image.copy(), make_extractor(params, None), params) for _ in range(2))
    assert first.rles == second.rles
    np.testing.assert_array_equal(first.parents, second.parents)


def test_local_regions_replace_small_ones(params: ExploreParams) -> None:
    image = np.full((256, 256, 3), (60, 120, 200), np.uint8)
    image[100:116, 100:116] = (250, 220, 40)  # 1/256 of it
    params = params.model_copy(update={"image_size": 256, "crop_size": 128, "refiner": "none"})
    extract = make_extractor(params, None)
    truth = np.zeros((256, 256), bool)
    truth[100:116, 100:116] = True
    closer = label_image(image, extract, params)
    (best,) = np.flatnonzero([iou(mask, truth) > 0.75 for mask in masks.decode(closer)])
    assert closer.sources[best] == "local"
    without = label_image(image, extract, params.model_copy(update={"theta_small": 0.0}))
    assert "local" not in without.sources


def test_all_regions_may_be_looked_at_again(params: ExploreParams) -> None:
    """A speck inside of a region that is not small, too small to be seen in the whole image."""
    image = np.full((256, 256, 3), (60, 120, 200), np.uint8)
    image[96:160, 96:160] = (200, 190, 60)
    truth = np.zeros((256, 256), bool)
    truth[120:136, 120:136] = True
    image[truth] = (20, 20, 20)
    values = {"image_size": 128, "crop_size": 64, "patch_size": 8, "theta_small": 0.0, "refiner": "none"}
    small = params.model_copy(update=values)
    every = small.model_copy(update={"recluster": "all"})
    extract = make_extractor(params, None)
    best = {
        p.recluster: max(iou(m, truth) for m in masks.decode(label_image(image, extract, p))) for p in (small, every)
    }
    assert best["small"] < 0.3
    assert best["all"] > 0.6
    assert "local" in label_image(image, extract, every).sources


def test_stable_regions_alone_with_their_stability_as_score(params: ExploreParams) -> None:
    image, walls, door = house()
    extract = make_extractor(params, None)
    all_of_them = label_image(image, extract, params)
    stable = label_image(image, extract, params.model_copy(update={"min_stability": 0.1}))
    assert 0 < len(stable) <= len(all_of_them)
    assert 0.1 <= stable.scores.min() <= stable.scores.max() <= 1
    assert len(set(stable.scores.tolist())) > 1
    least = stable.scores.min().item()  # a region of just this stability stays
    assert least in label_image(image, extract, params.model_copy(update={"min_stability": least})).scores
    drawn = masks.decode(stable)
    assert max(iou(mask, door) for mask in drawn) > 0.9
    assert max(iou(mask, walls & ~door) for mask in drawn) > 0.9


def test_an_image_of_one_colour_is_one_region(params: ExploreParams) -> None:
    image = np.full((64, 96, 3), 128, np.uint8)
    found = label_image(image, make_extractor(params, None), params)
    assert len(found) <= 1


def test_refinement_drops_what_it_changes_beyond_recognition() -> None:
    before = np.zeros((3, 10, 10), bool)
    before[:, :4] = True

    class Shifted:
        label_free = True

        def refine(self, image_HW3: np.ndarray, masks: PackedMasks) -> PackedMasks:
            return pack(
                np.stack([np.roll(before[0], 1, 0), np.roll(before[1], 2, 0), ~before[2] & before[2]]), size=(10, 10)
            )

    found = Candidates(pack(before, size=(10, 10)), np.array(["a", "b", "c"]), np.ones(3, np.float32))
    image = np.zeros((10, 10, 3), np.uint8)
    assert phase1.refine(Shifted(), image, found, refine_min_iou=0.6).sources.tolist() == ["a"]  # IoU 3 / 5
    assert phase1.refine(Shifted(), image, found, refine_min_iou=0.3).sources.tolist() == ["a", "b"]
    assert phase1.refine(Shifted(), image, found, refine_min_iou=0.0).sources.tolist() == [
        "a",
        "b",
    ]  # never an empty one


def test_duplicates_fall_to_earlier_candidates() -> None:
    alike = np.zeros((3, 10, 10), bool)
    alike[0, :9], alike[1, :10], alike[2, 5:] = True, True, True
    found = Candidates(pack(alike, size=(10, 10)), np.array(["large", "duplicate", "other"]), np.ones(3, np.float32))
    assert phase1.without_duplicates(found, nms_iou=0.85).sources.tolist() == ["large", "other"]
    assert len(phase1.without_duplicates(found, nms_iou=0.9)) == 3


def test_tokens_come_from_the_backbone_in_the_file(params: ExploreParams, repository, tmp_path) -> None:
    import torch

    from sohes.backbone.build import build_backbone
    from sohes.backbone.checkpoint import save_backbone
    from sohes.backbone.vit import extract_features

    small = {"pretrained": "train", "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "image_size": 64}
    torch.manual_seed(0)
    backbone = build_backbone(load_params(repository / "params.yaml").backbone.model_copy(update=small))
    save_backbone(backbone, tmp_path / "backbone.safetensors", {})
    extract = make_extractor(params.model_copy(update={"features": "tokens"}), tmp_path / "backbone.safetensors")
    image = render_scene(0, size=64, seed=0).image_HW3
    features = extract([image, image[::-1]])
    assert [map_.shape for map_ in features] == [(4, 4, 32), (4, 4, 32)]
    np.testing.assert_allclose(features[0], extract_features(backbone, [image])[0], rtol=1e-3, atol=1e-4)
    assert not np.allclose(features[0], features[1])
    keys = make_extractor(params.model_copy(update={"features": "keys"}), tmp_path / "backbone.safetensors")
    expected = extract_features(backbone, [image], wanted=[("keys", -1)])[0]
    np.testing.assert_allclose(keys([image])[0], expected, rtol=1e-3, atol=1e-4)
