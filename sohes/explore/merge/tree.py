"""Global clustering: one merge tree per feature map, and the regions it records (paper 3.1 step 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sohes.explore.merge.kernel import merge_log
from sohes.work.compiled import compiled


@dataclass(frozen=True)
class MergeTree:
    """Every region that merging a map of h x w patches down to one region passes through.

    Nodes 0 .. n - 1 are the patches in row-major order (n = h w); node n + m is made by merge m of M = n - 1.
    children_M2: (M, 2) int32 nodes, the lower one first.  similarity_M: (M,) float64 cosine at which they merged.
    area_K: (K,) int32 patches of each of the K = 2 n - 1 nodes.  parent_K: (K,) int32, -1 for the last node.
    order_n: (n,) int32, the patches sorted so that node k owns `order_n[start_K[k] : start_K[k] + area_K[k]]`.
    """

    height: int
    width: int
    children_M2: np.ndarray
    similarity_M: np.ndarray
    area_K: np.ndarray
    parent_K: np.ndarray
    order_n: np.ndarray
    start_K: np.ndarray

    @property
    def num_leaves(self) -> int:
        return self.height * self.width


def merge_tree(features_hwC: np.ndarray) -> MergeTree:
    """Merge the two most similar adjacent regions of a (h, w, C) feature map until one is left (paper 3.1 step 1).

    A region's feature is the area-weighted mean of its patches, similarity is the cosine, adjacency the four
    neighbours. Ours: of equally similar pairs the one with the lowest (lower node, higher node) goes first, where a
    merged region takes the next node number; a cosine within 2^-18 of 1 counts as 1, because what is left there is
    rounding; and a feature of norm zero has cosine 0 with everything. ValueError for another shape, NaN or infinity.
    """
    if features_hwC.ndim != 3 or 0 in features_hwC.shape:
        raise ValueError(f"features must be a non-empty (h, w, C) map (got shape {features_hwC.shape})")
    height, width, channels = features_hwC.shape
    features = np.asarray(features_hwC, np.float32).reshape(height * width, channels)
    children, similarity = merge_log(features, width)
    return MergeTree(height, width, children, similarity, *_layout(children, height * width))


@compiled
def _layout(children, n):
    """Areas, parents, and the order of the leaves in which every node is one range."""
    nodes = n + len(children)
    area, parent, start = np.ones(nodes, np.int32), np.full(nodes, -1, np.int32), np.zeros(nodes, np.int32)
    for m in range(len(children)):
        left, right = children[m]
        area[n + m] = area[left] + area[right]
        parent[left] = parent[right] = n + m
    for m in range(len(children) - 1, -1, -1):
        left, right = children[m]
        start[left] = start[n + m]
        start[right] = start[n + m] + area[left]
    order = np.empty(n, np.int32)
    for leaf in range(n):
        order[start[leaf]] = leaf
    return area, parent, order, start


def unit_features(features_hwC: np.ndarray) -> np.ndarray:
    """The features with norm 1, those of norm zero as they are; the channels lie on the last axis."""
    norm = np.linalg.norm(features_hwC, axis=-1, keepdims=True)
    return np.divide(features_hwC, norm, out=np.zeros_like(features_hwC), where=norm > 0)


# ---------------------------------------------------------------- regions of a tree


def merges_before(tree: MergeTree, theta_merge: Sequence[float]) -> np.ndarray:
    """(T,) int64: how many merges are done when the highest similarity left first falls below each threshold.

    The similarities of successive merges may rise again after a fall, so this is the first fall, not a sorted rank.
    """
    level = np.minimum.accumulate(tree.similarity_M)
    return np.searchsorted(-level, -np.asarray(theta_merge, np.float64), side="right")


def regions_at_thresholds(tree: MergeTree, theta_merge: Sequence[float]) -> list[np.ndarray]:
    """The nodes that partition the map at each threshold, single patches included; one int64 array each."""
    born, dead = _lifetime(tree)
    return [np.flatnonzero((born <= m) & (m <= dead)) for m in merges_before(tree, theta_merge)]


def _lifetime(tree: MergeTree) -> tuple[np.ndarray, np.ndarray]:
    """A node is a region after m merges iff born <= m <= dead."""
    n = tree.num_leaves
    born = np.maximum(np.arange(len(tree.area_K)) - n + 1, 0)
    dead = np.where(tree.parent_K >= 0, tree.parent_K - n, len(tree.similarity_M))
    return born, dead


def select_regions(tree: MergeTree, *, theta_merge: Sequence[float], nms_iou: float) -> np.ndarray:
    """(N,) int64 nodes recorded at any threshold, without duplicates, largest first, ties by node (paper 3.1 step 1).

    Ours: single patches are dropped. Regions of one tree are nested or disjoint, so greedy non-maximum suppression
    over masks needs one comparison a region: with its nearest kept ancestor, where the IoU is the ratio of areas.
    """
    recorded = np.unique(merges_before(tree, theta_merge))
    kept = _kept_nodes(tree.area_K, tree.parent_K, tree.num_leaves, recorded, float(nms_iou))
    return kept[np.lexsort((kept, -tree.area_K[kept]))]


@compiled
def _kept_nodes(area, parent, n, recorded, nms_iou):
    nodes = len(area)
    nearest = np.full(nodes - n, -1, np.int64)  # the smallest kept region that holds merged node n + m, or is it
    kept = np.empty(nodes - n, np.int64)
    count = 0
    for m in range(nodes - n - 1, -1, -1):  # parents have higher numbers, so they are decided first
        node = n + m
        dead = nodes - n if parent[node] < 0 else parent[node] - n
        above = np.int64(-1) if parent[node] < 0 else nearest[parent[node] - n]
        nearest[m] = above
        t = np.searchsorted(recorded, m + 1)
        if t < len(recorded) and recorded[t] <= dead and (above < 0 or area[node] / area[above] <= nms_iou):
            nearest[m] = node
            kept[count] = node
            count += 1
    return kept[:count]


def region_masks(tree: MergeTree, nodes: np.ndarray) -> np.ndarray:
    """(N, h, w) bool masks of nodes, in patches."""
    masks_Nn = np.zeros((len(nodes), tree.num_leaves), bool)
    for mask, node in zip(masks_Nn, nodes, strict=True):
        mask[tree.order_n[tree.start_K[node] : tree.start_K[node] + tree.area_K[node]]] = True
    return masks_Nn.reshape(len(nodes), tree.height, tree.width)


def stability(tree: MergeTree, nodes: np.ndarray, *, same_iou: float) -> np.ndarray:
    """(N,) float64 in [0, 1]: the length of the range of thresholds at which each node stays about what it is.

    A node is recorded from its birth similarity down to its death similarity, both the lowest similarity merged at so
    far, clipped to [0, 1]. The nodes that it grows out of or into while their IoU with it is at least `same_iou` count
    as the same: an object that takes in one patch after another lives long, though each of its nodes lives briefly.
    """
    nodes = np.asarray(nodes, np.int64)
    born, dead = _lifetime(tree)
    level = np.concatenate([[1.0], np.minimum.accumulate(tree.similarity_M).clip(0, 1), [0.0]])
    first, last = _same_region(tree.area_K, tree.parent_K, tree.children_M2, tree.num_leaves, nodes, float(same_iou))
    return level[born[first]] - level[dead[last] + 1]


@compiled
def _same_region(area, parent, children, n, nodes, same_iou):
    """The smallest node that each grows out of, and the largest that it grows into, while it stays the same region."""
    first, last = nodes.copy(), nodes.copy()
    for i in range(len(nodes)):
        while first[i] >= n:
            left, right = children[first[i] - n]
            larger = left if area[left] >= area[right] else right
            if area[larger] < same_iou * area[nodes[i]]:
                break
            first[i] = larger
        while parent[last[i]] >= 0 and area[nodes[i]] >= same_iou * area[parent[last[i]]]:
            last[i] = parent[last[i]]
    return first, last
