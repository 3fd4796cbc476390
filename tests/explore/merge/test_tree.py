from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sohes.bench.cluster import pattern_features
from sohes.explore.merge import kernel as merging
from sohes.explore.merge.reference import reference_merge
from sohes.explore.merge.tree import (
    MergeTree,
    _lifetime,
    merge_tree,
    region_masks,
    regions_at_thresholds,
    select_regions,
    stability,
)
from sohes.masks import intersections, iou_from_intersections, nms_from_iou

THETA_MERGE = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def at_degrees(*degrees: float) -> np.ndarray:
    """A map one patch high whose features are unit vectors of the plane."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], -1)[None].astype(np.float32)


def lane_dot(rows_KC: np.ndarray, row_C: np.ndarray) -> np.ndarray:
    """Inner products in float32, added in the order that `sohes.explore.merge.dot` promises."""
    blocks = -(-rows_KC.shape[1] // 64)
    products = np.zeros((len(rows_KC), blocks, 64), np.float32)
    products.reshape(len(rows_KC), blocks * 64)[:, : rows_KC.shape[1]] = rows_KC * row_C
    lanes = np.zeros((len(rows_KC), 64), np.float32)
    for block in range(blocks):
        lanes = lanes + products[:, block]
    lanes = (lanes[:, :16] + lanes[:, 16:32]) + (lanes[:, 32:48] + lanes[:, 48:])
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0].astype(np.float64)


def exact_merge(features_hwC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition, with sums of float32 in the kernel's order."""
    return reference_merge(features_hwC, dtype=np.float32, dot=lane_dot)


def small_map(seed: int) -> np.ndarray:
    """One of eight kinds of map, of random size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 13, 2)
    channels = int(rng.choice([2, 3, 8, 64, 65, 130]))
    size = (height, width, channels)
    colours = rng.normal(size=(4, channels))[rng.integers(0, 4, (height // 2 + 1, width // 2 + 1))]
    blocks = colours.repeat(2, 0).repeat(2, 1)[:height, :width]
    kinds = [
        lambda: rng.normal(size=size),
        lambda: blocks + 0.1 * rng.normal(size=size),
        lambda: np.broadcast_to(rng.normal(size=channels), size),
        lambda: rng.integers(0, 2, size),  # ties, and patches of norm zero
        lambda: blocks,  # ties inside a colour
        lambda: np.eye(channels)[rng.integers(0, min(3, channels), size[:2])],  # right angles only
        lambda: np.broadcast_to(np.eye(channels)[0] * rng.integers(1, 9, (height, width, 1)), size),  # one colour
        lambda: 2 * rng.normal(size=channels) + rng.normal(size=size),  # one region eats the others
    ]
    return kinds[seed % len(kinds)]().astype(np.float32)


@pytest.mark.parametrize("seeds", [range(i, i + 26) for i in range(0, 208, 26)])
def test_merge_log_is_the_definitions_merge_by_merge(seeds):
    for seed in seeds:
        features = small_map(seed)
        tree = merge_tree(features)
        children, similarity = exact_merge(features)
        np.testing.assert_array_equal(tree.children_M2, children, err_msg=f"map {seed}")
        np.testing.assert_array_equal(tree.similarity_M, similarity, err_msg=f"map {seed}")


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_a_region_with_hundreds_of_neighbours_merges_as_defined(noise):
    rng = np.random.default_rng(5)
    features = (rng.normal(size=64) + noise * rng.normal(size=(30, 30, 64))).astype(np.float32)
    features[rng.random((30, 30)) < 0.3] *= -1
    children, similarity = exact_merge(features)
    tree = merge_tree(features)
    np.testing.assert_array_equal(tree.children_M2, children)
    np.testing.assert_array_equal(tree.similarity_M, similarity)


def test_packing_the_lists_of_edges_changes_nothing(monkeypatch):
    features = pattern_features("noise", grid=100, dim=64)
    roomy = merge_tree(features)
    monkeypatch.setattr(merging, "PLACES_PER_PATCH", 9)  # below the guarantee: packs here, and is enough
    np.testing.assert_array_equal(merge_tree(features).children_M2, roomy.children_M2)


@pytest.mark.parametrize("pattern", ["structured", "giant"])
def test_regions_of_a_full_grid_are_those_of_float64_brute_force(pattern):
    assert_same_regions(pattern_features(pattern, grid=128, dim=32))


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "grid"), [("structured", 128), ("giant", 128), ("noise", 64)])
def test_regions_at_the_papers_size_are_those_of_float64_brute_force(pattern, grid):
    assert_same_regions(pattern_features(pattern, grid=grid, dim=768))


def assert_same_regions(features_hwC: np.ndarray) -> None:
    tree = merge_tree(features_hwC)
    children, similarity = reference_merge(features_hwC)
    np.testing.assert_allclose(np.sort(tree.similarity_M), np.sort(similarity), atol=1e-5)
    n = features_hwC.shape[0] * features_hwC.shape[1]
    leaves: dict[int, frozenset[int]] = {i: frozenset([i]) for i in range(n)}
    expected, thresholds = [], sorted(THETA_MERGE, reverse=True)
    for m, (a, b) in enumerate(children.tolist()):
        while thresholds and similarity[m] < thresholds[0]:
            thresholds.pop(0)
            expected.append(set(leaves.values()))
        leaves[n + m] = leaves.pop(a) | leaves.pop(b)
    expected += [set(leaves.values())] * len(thresholds)
    for nodes, regions in zip(regions_at_thresholds(tree, THETA_MERGE), expected, strict=True):
        ranges = zip(tree.start_K[nodes], tree.area_K[nodes], strict=True)
        assert {frozenset(tree.order_n[s : s + a].tolist()) for s, a in ranges} == regions


# ---------------------------------------------------------------- the tree


def test_four_patches_in_a_row():
    """0 and 10 degrees merge to 5; 50 and 75 to 62.5; then both."""
    tree = merge_tree(at_degrees(0, 10, 50, 75))
    assert tree.children_M2.tolist() == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_allclose(tree.similarity_M, np.cos(np.deg2rad([10, 25, 57.5])), atol=1e-6)
    assert tree.area_K.tolist() == [1, 1, 1, 1, 2, 2, 4]
    assert tree.parent_K.tolist() == [4, 4, 5, 5, 6, 6, -1]
    assert region_masks(tree, np.array([4, 5, 6])).tolist() == [
        [[True, True, False, False]],
        [[False, False, True, True]],
        [[True, True, True, True]],
    ]


def test_features_are_means_over_patches_not_over_regions():
    """0, 0 and 40 degrees: the mean leans to the two, so 20 degrees less a bit from 40 down to -45."""
    tree = merge_tree(at_degrees(0, 0, 40, -45))
    mean = np.array([2 + np.cos(np.deg2rad(40)), np.sin(np.deg2rad(40))])
    other = np.array([1, -1]) / np.sqrt(2)
    np.testing.assert_allclose(tree.similarity_M[2], mean @ other / np.linalg.norm(mean), atol=1e-6)


def test_equal_pairs_merge_by_lower_then_higher_node():
    """Node 6 is made first, but 6 and 7 only merge when no lower pair is left."""
    tree = merge_tree(np.ones((2, 3, 5), np.float32))
    assert tree.children_M2.tolist() == [[0, 1], [2, 5], [3, 4], [6, 7], [8, 9]]
    assert tree.similarity_M.tolist() == [1.0] * 5


def test_a_feature_of_norm_zero_has_cosine_zero():
    features = at_degrees(0, 0, 60)
    features[0, 1] = 0
    tree = merge_tree(features)
    assert tree.children_M2.tolist() == [[0, 1], [2, 3]]
    np.testing.assert_allclose(tree.similarity_M, [0, 0.5], atol=1e-6)
    assert merge_tree(np.zeros((3, 3, 4), np.float32)).similarity_M.tolist() == [0.0] * 8


def test_one_patch_is_a_tree_without_merges():
    tree = merge_tree(np.ones((1, 1, 3), np.float32))
    assert tree.children_M2.shape == (0, 2)
    assert [nodes.tolist() for nodes in regions_at_thresholds(tree, (0.5,))] == [[0]]
    assert select_regions(tree, theta_merge=(0.5,), nms_iou=0.9).tolist() == []


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**60])
def test_lengths_far_from_one_do_not_matter(scale):
    features = pattern_features("structured", grid=8, dim=32)
    tree, scaled = merge_tree(features), merge_tree(features * np.float32(scale))
    np.testing.assert_array_equal(scaled.children_M2, tree.children_M2)
    np.testing.assert_array_equal(scaled.similarity_M, tree.similarity_M)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad):
    features = np.ones((4, 4, 3), np.float32)
    features[2, 1, 0] = bad
    with pytest.raises(ValueError, match="got 1 NaN or infinite"):
        merge_tree(features)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 3), (4, 4, 0)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="non-empty"):
        merge_tree(np.ones(shape, np.float32))


def test_input_stays_and_may_be_a_view():
    features = np.random.default_rng(0).normal(size=(64, 9, 8)).astype(np.float32)
    view = features.transpose(1, 2, 0)
    before = view.copy()
    tree = merge_tree(view)
    np.testing.assert_array_equal(view, before)
    np.testing.assert_array_equal(tree.children_M2, merge_tree(before).children_M2)


# ---------------------------------------------------------------- regions of a tree


@pytest.fixture(scope="module")
def tree() -> MergeTree:
    return merge_tree(pattern_features("structured", grid=24, dim=16, seed=3))


def test_a_level_ends_at_the_first_fall_though_similarity_rises_again():
    tree = merge_tree(np.ones((2, 3, 2), np.float32))
    rises = MergeTree(
        tree.height,
        tree.width,
        tree.children_M2,
        np.array([0.9, 0.8, 0.4, 0.7, 0.5]),  # falls below 0.6 at merge 2, rises at merge 3
        tree.area_K,
        tree.parent_K,
        tree.order_n,
        tree.start_K,
    )
    counts = [len(nodes) for nodes in regions_at_thresholds(rises, (0.95, 0.9, 0.6, 0.45, 0.3))]
    assert counts == [6, 5, 4, 4, 1]


def test_regions_at_a_threshold_partition_the_map(tree):
    for nodes in regions_at_thresholds(tree, THETA_MERGE):
        assert (region_masks(tree, nodes).sum(0) == 1).all()


def test_any_two_regions_are_nested_or_disjoint(tree):
    nodes = select_regions(tree, theta_merge=THETA_MERGE, nms_iou=1)
    shared, area = intersections(region_masks(tree, nodes)), tree.area_K[nodes]
    for i, j in combinations(range(len(nodes)), 2):
        assert shared[i, j] in (0, min(area[i], area[j]))


@pytest.mark.parametrize("nms_iou", [0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_selection_is_greedy_nms_over_masks(seed, nms_iou):
    tree = merge_tree(pattern_features("structured", grid=20, dim=12, seed=seed))
    theta_merge = np.linspace(0.95, 0.05, 19)
    pool = np.unique(np.concatenate(regions_at_thresholds(tree, theta_merge)))
    pool = pool[tree.area_K[pool] > 1]
    masks_Nhw = region_masks(tree, pool)
    order = np.lexsort((pool, -masks_Nhw.sum((1, 2))))
    kept = nms_from_iou(iou_from_intersections(intersections(masks_Nhw)), order, nms_iou=nms_iou)
    assert len(kept) > 5
    np.testing.assert_array_equal(select_regions(tree, theta_merge=theta_merge, nms_iou=nms_iou), pool[kept])


def test_masks_follow_from_the_children(tree):
    masks_Khw = region_masks(tree, np.arange(len(tree.area_K)))
    n = tree.num_leaves
    np.testing.assert_array_equal(masks_Khw[:n].reshape(n, n), np.eye(n, dtype=bool))
    left, right = tree.children_M2.T
    np.testing.assert_array_equal(masks_Khw[n:], masks_Khw[left] | masks_Khw[right])
    np.testing.assert_array_equal(masks_Khw.sum((1, 2)), tree.area_K)


def persistence(tree: MergeTree, nodes: np.ndarray) -> np.ndarray:
    """(N,) float64 in [0, 1]: the length of the range of thresholds at which each node would be recorded.

    Birth minus death similarity, both as the lowest similarity merged at so far and clipped to [0, 1]; a patch is born
    at 1 and the last region dies at 0.
    """
    nodes = np.asarray(nodes, np.int64)
    level = np.concatenate([[1.0], np.minimum.accumulate(tree.similarity_M).clip(0, 1), [0.0]])
    born, dead = _lifetime(tree)
    return level[born[nodes]] - level[dead[nodes] + 1]


def test_persistence_is_the_span_of_thresholds_that_record_a_node(tree):
    theta = (np.arange(2000) + 0.5) / 2000
    counts = np.zeros(len(tree.area_K))
    for nodes in regions_at_thresholds(tree, theta):
        counts[nodes] += 1
    spans = persistence(tree, np.arange(len(tree.area_K)))
    np.testing.assert_allclose(spans, counts / 2000, atol=1 / 2000)
    assert spans.max() > 0.05


def test_stability_is_the_persistence_of_all_that_is_about_the_same_region(tree):
    nodes = np.arange(len(tree.area_K))
    np.testing.assert_allclose(stability(tree, nodes, same_iou=1), persistence(tree, nodes))
    longer = stability(tree, nodes, same_iou=0.8)
    assert (longer >= persistence(tree, nodes) - 1e-12).all()
    assert (longer <= 1).all()
    assert (longer > persistence(tree, nodes)).any()


def test_a_region_that_takes_in_patch_by_patch_is_stable():
    """Ten alike patches, two that join one by one, and far from them the rest."""
    tree = merge_tree(at_degrees(*[0.0] * 10, 20, 50, *[200.0] * 20))

    def node_of_first(patches: int) -> int:
        ranges = ((tree.start_K[k], tree.start_K[k] + tree.area_K[k]) for k in range(len(tree.area_K)))
        owned = [set(tree.order_n[start:stop].tolist()) for start, stop in ranges]
        return owned.index(set(range(patches)))

    ten, twelve = node_of_first(10), node_of_first(12)
    assert persistence(tree, [twelve])[0] < 0.7  # it is born where its mean meets the patch of 50 degrees
    assert stability(tree, [twelve], same_iou=10 / 12)[0] == pytest.approx(1)  # as ten patches it was there before
    assert stability(tree, [ten], same_iou=0.95)[0] == pytest.approx(1 - np.cos(np.deg2rad(20)), abs=0.01)
