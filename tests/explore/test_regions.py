import numpy as np
import pytest

from sohes.evaluate.phases import make_predictor
from sohes.explore.merge.tree import merge_tree
from sohes.explore.regions import THRESHOLDS, region_counts
from sohes.params import Params


def test_regions_of_a_row_of_patches_by_threshold():
    # Two equal patches, one at 60 degrees from them, one at a right angle to the first two.
    angles = np.deg2rad([0, 0, 60, 90])
    tree = merge_tree(np.stack([np.cos(angles), np.sin(angles)], -1)[None].astype(np.float32))
    assert region_counts(tree, [0.95, 0.8, 0.1]).tolist() == [1, 2, 1]  # single patches are left out


def test_a_lower_threshold_merges_more_and_the_figures_thresholds_are_the_papers():
    tree = merge_tree(np.random.default_rng(0).normal(size=(6, 6, 3)).astype(np.float32))
    assert region_counts(tree).shape == (len(THRESHOLDS),)
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0.1, 0.85)
    assert region_counts(tree, [-1.0]).tolist() == [1]


@pytest.mark.parametrize("method", ["sohes", "threshold"])
def test_phase_1_shows_one_tree_an_image_and_finds_the_same(tiny_params, tmp_path, method):
    tiny_params["explore"]["method"] = method
    params = Params.model_validate(tiny_params)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8))
    trees: list = []
    watched = list(make_predictor("explore", params, tmp_path, on_tree=trees.append)(images))
    assert len(trees) == (2 if method == "sohes" else 0)
    assert [m.rles for m in watched] == [m.rles for m in make_predictor("explore", params, tmp_path)(images)]
