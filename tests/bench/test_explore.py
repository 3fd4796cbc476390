from __future__ import annotations

import numpy as np

from sohes.bench.explore import bench_explore, label_in_steps
from sohes.data.scenes import render_scene
from sohes.explore.label_image import label_image, make_extractor
from sohes.params import load_params


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


def test_result_has_the_keys_of_every_bench_and_the_steps(repository):
    result = bench_explore(params=repository / "params.yaml", size=96, repeats=1)
    assert result["name"] == "explore-96"
    assert result["masks"] > 0
    steps = {f"{step}_seconds" for step in ("features", "global", "local", "nms", "refine", "hierarchy", "pack")}
    assert set(result) == {"name", "seconds_median", "cpu_seconds_median", "peak_mb", "masks"} | steps
