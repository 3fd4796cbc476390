import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from skimage.draw import polygon2mask

from sohes.data.scenes import families
from sohes.data.scenes.paint import box_blur, coverage, value_noise
from sohes.data.scenes.render import EVAL_OFFSET, MIN_PIXELS, SAME_IOU, _visible_masks, render_scene
from sohes.masks.forest import forest_ancestors
from sohes.params import load_params

DIGEST = """
import hashlib
from sohes.data.scenes.render import render_scene
for index in (0, 7, 1_000_003):
    scene = render_scene(index, size=128, seed=3)
    arrays = (scene.image_HW3, scene.masks_NHW, scene.parents_N)
    print(hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest())
"""


def test_processes_with_different_thread_counts_give_the_same_bits():
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENCV_FOR_THREADS_NUM": threads, "OPENCV_IPP": ipp},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for threads, ipp in (("1", "disabled"), ("3", "avx2"))
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 3


def test_other_seeds_and_indices_give_other_scenes():
    a, b, c = (render_scene(i, size=64, seed=s).image_HW3 for i, s in ((0, 0), (1, 0), (0, 1)))
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize(("start", "size"), [(0, 192), (EVAL_OFFSET, 192), (40, 96)])
def test_every_scene_is_an_exact_forest(start, size):
    for index in range(start, start + 12):
        scene = render_scene(index, size=size, seed=0)
        masks, parents = scene.masks_NHW, scene.parents_N
        n = len(masks)
        assert scene.image_HW3.shape == (size, size, 3)
        assert scene.image_HW3.dtype == np.uint8
        assert masks.shape == (n, size, size)
        assert masks.dtype == bool
        assert parents.shape == (n,)
        assert parents.dtype == np.int64
        areas = masks.sum((1, 2))
        assert (np.diff(areas) <= 0).all()
        assert areas.min() >= MIN_PIXELS
        assert len(np.unique(masks.reshape(n, -1), axis=0)) == n
        ancestors = forest_ancestors(parents)  # raises for a cycle
        for i in range(n):
            for j in range(i + 1, n):
                shared = (masks[i] & masks[j]).sum()
                assert shared == (areas[j] if ancestors[i, j] else 0)  # nested if related, else disjoint
                if parents[j] == i:
                    assert areas[j] <= SAME_IOU * areas[i]


def test_the_roots_cover_almost_the_whole_image():
    scene = render_scene(5, size=192, seed=0)
    assert scene.masks_NHW[scene.parents_N < 0].any(0).mean() > 0.999  # all but fragments below MIN_PIXELS


def test_the_masks_have_all_sizes_and_are_few_enough_for_the_demo():
    scenes = [render_scene(i, size=192, seed=0) for i in range(60)]
    areas = np.concatenate([s.masks_NHW.sum((1, 2)) for s in scenes])
    assert 8 <= np.mean([len(s.parents_N) for s in scenes]) <= 14
    for low, high, share in ((0, 32**2, 0.15), (32**2, 96**2, 0.25), (96**2, 192**2, 0.2)):
        assert ((areas >= low) & (areas < high)).mean() > share
    assert np.mean([s.image_HW3.std() for s in scenes]) > 25


def test_training_indices_stay_below_the_evaluation_offset(repository):
    params = load_params(repository / "params.yaml")
    assert params.pull.scenes.train < EVAL_OFFSET


def test_a_bad_argument_is_named():
    with pytest.raises(ValueError, match="got -1"):
        render_scene(-1, size=64, seed=0)


def test_visible_masks_drops_hidden_parts_and_parts_equal_to_their_whole():
    # nodes: 0 stuff, 1 whole, 2 its part that hides nearly all of it, 3 subpart of 2, 4 a speck of 1
    owner = np.zeros((40, 40), np.int16)
    owner[4:36, 4:36] = 2
    owner[8:20, 8:20] = 3
    owner[35, 4:12] = 4
    _, masks, parents = _visible_masks(owner, np.array([-1, -1, 1, 2, 1]))
    assert masks.sum((1, 2)).tolist() == [1024, 576, 144]  # the whole, stuff, the subpart
    assert parents.tolist() == [-1, -1, 0]  # part 2 is dropped, its child now belongs to the whole


@pytest.mark.parametrize(
    "family", [*families.OUTDOORS, *families.INDOORS, *families.AIRBORNE], ids=lambda f: f.__name__
)
def test_a_family_is_one_whole_with_two_to_seven_parts_on_the_ground(family):
    for seed in range(5):
        figure = family(np.random.default_rng(seed))
        assert figure.parents[0] == -1
        assert all(0 <= parent < part for part, parent in enumerate(figure.parents) if part)
        assert {stroke.part for stroke in figure.strokes} == set(range(1, len(figure.parents)))
        assert 2 <= figure.parents.count(0) <= 7
        corners = np.concatenate([outline for stroke in figure.strokes for outline in stroke.outlines])
        assert -0.05 < corners[:, 1].min() < 0.05
        assert 0.7 < corners[:, 1].max() < 1.3


def test_coverage_of_a_box_is_its_share_of_each_pixel():
    found = coverage((np.array([(2.0, 3.0), (5.5, 3.0), (5.5, 6.0), (2.0, 6.0)]),), 16)
    assert found is not None
    alpha, (y0, x0, y1, x1) = found
    canvas = np.zeros((16, 16))
    canvas[y0:y1, x0:x1] = alpha / 240
    # OpenCV draws every pixel that the polygon's edge touches: up to one of four subpixels too many
    assert canvas[3:6, 2:5].min() == 1
    assert 0.5 <= canvas[4, 5] <= 0.75
    assert canvas[:2].max() == canvas[8:].max() == 0


def test_coverage_agrees_with_another_rasteriser():
    outline = families.blob(np.random.default_rng(0), 32, 30, 20, 14)
    alpha, (y0, x0, y1, x1) = coverage((outline,), 64)
    mine = np.zeros((64, 64), bool)
    mine[y0:y1, x0:x1] = alpha >= 120
    truth = polygon2mask((64, 64), outline[:, ::-1] - 0.5)
    assert (mine & truth).sum() / (mine | truth).sum() > 0.95


def test_coverage_outside_the_image_is_none():
    assert coverage((np.array([(20.0, 3.0), (25, 3), (25, 6)]),), 16) is None


def test_box_blur_is_two_means_with_zeros_around_the_image():
    spot = np.array([[81]], np.uint8)
    tent = np.array([1, 2, 3, 2, 1])
    np.testing.assert_allclose(box_blur(spot, 1), np.outer(tent, tent), rtol=1e-6)


def test_a_wide_box_blur_does_not_overflow():
    flat = np.full((300, 300), 255, np.uint8)
    for radius in (31, 40):  # below and above the switch to 64 bits
        np.testing.assert_allclose(box_blur(flat, radius)[2 * radius + 150, 2 * radius + 150], 255, rtol=1e-6)


def test_value_noise_tiles_without_a_seam():
    noise = value_noise(np.random.default_rng(0), 64, 8)
    inside = np.abs(np.diff(noise, axis=0)).max()
    assert np.abs(noise[0] - noise[-1]).max() <= inside
    assert 0 <= noise.min() < 0.2 < 0.8 < noise.max() <= 1


def test_the_scenes_are_the_same_in_every_version():
    """Another processor or version of a library must not silently change the dataset."""
    digest = hashlib.sha256()
    for index in range(0, 40, 5):
        scene = render_scene(index, size=96, seed=0)
        digest.update(scene.image_HW3.tobytes() + scene.masks_NHW.tobytes() + scene.parents_N.tobytes())
    assert digest.hexdigest() == "f5904836b631d7824653d0cde25fc98651052d0f3cd79efe8541fc7d0a8fc36d"
