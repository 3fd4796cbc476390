from __future__ import annotations

import numpy as np
import pytest

from sohes.bench.explore import bench_explore, label_in_steps
from sohes.bench.places import place_tokens, places_image
from sohes.data.scenes.render import render_scene
from sohes.explore.label_image import label_image
from sohes.explore.maps import make_extractor
from sohes.params import load_params

STEPS = {f"{step}_seconds" for step in ("features", "global", "local", "nms", "refine", "hierarchy", "pack")}
KEYS = STEPS | {
    "name", "seconds_median", "cpu_seconds_median", "peak_mb", "process_mb", "images_per_second", "masks", "crops",
    "rest_cpu_seconds_median", "rest_share",
}  # fmt: skip


def test_the_steps_are_those_of_phase_one(repository):
    params = load_params(repository / "params.yaml").explore.model_copy(update={"features": "handmade"})
    extract = make_extractor(params, None)
    image = render_scene(5, size=96, seed=0).image_HW3
    found, spent = label_in_steps(image, extract, params)
    whole = label_image(image, extract, params)
    assert found.rles == whole.rles
    assert found.sources == whole.sources
    np.testing.assert_array_equal(found.parents, whole.parents)
    assert min(spent.values()) > 0


@pytest.mark.parametrize("features", ["handmade", "structured"])
def test_result_has_the_keys_of_every_bench_and_the_steps(repository, features):
    result = bench_explore(
        params=repository / "params.yaml", size=96, features=features, dim=64, repeats=1, reference=True
    )
    assert result.keys() == KEYS | {"reference_cpu_seconds", "ratio"}
    assert result["name"] == f"explore-96-{features}"
    assert result["masks"] > 0
    assert 0 < result["rest_cpu_seconds_median"] <= result["cpu_seconds_median"]


def test_a_crop_of_the_places_has_the_tokens_of_its_place():
    image, tokens = places_image(256), place_tokens(16, patch_size=8)
    whole, crop = (tokens([view])[0] for view in (image, image[64:192, 128:]))
    difference = whole[8:24, 16:] - crop  # the noise, of deviation 1/2 in each, is what they do not share
    assert crop.shape == (16, 16, 16)
    assert difference.std() == pytest.approx(0.5**0.5, rel=0.1)
