"""Candidate masks: cluster the whole image, then magnified crops of its small regions (paper 3.1, steps 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from sohes import masks
from sohes.explore.merge.tree import MergeTree, merge_tree, region_masks, select_regions, stability, unit_features
from sohes.masks.packed import PackedMasks, join, lay
from sohes.masks.windows import touches_cut
from sohes.params import ExploreParams

# From square uint8 RGB images of one size to the (h, w, C) float32 features of their patches.
Extract = Callable[[list[np.ndarray]], list[np.ndarray]]
OnTree = Callable[[MergeTree], None]

SHARE_IOU = 0.5  # crops that overlap this much show the same place
PIXELS_AT_ONCE = 2**21  # pixels of crops in one batch: 32 crops of 256 x 256


@dataclass(frozen=True)
class Candidates:
    """Candidate masks. sources: (N,) `global`, `local` or a peer's name.  scores: (N,) float32 in [0, 1]."""

    masks: PackedMasks
    sources: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, kept: np.ndarray) -> Candidates:
        return Candidates(self.masks[kept], self.sources[kept], self.scores[kept])

    def __add__(self, other: Candidates) -> Candidates:
        both = join([self.masks, other.masks], size=self.masks.size)
        sources, scores = (np.concatenate([getattr(c, name) for c in (self, other)]) for name in ("sources", "scores"))
        return Candidates(both, sources, scores)


def global_regions(
    features_hwC: np.ndarray,
    params: ExploreParams,
    *,
    image_hw: tuple[int, int],
    size: tuple[int, int],
    on_tree: OnTree | None = None,
) -> tuple[Candidates, np.ndarray]:
    """Step 1: the regions of the whole image that are large enough, as masks of `size` (height, width), and the
    (M, 4) boxes (y0, x0, y1, x1), in pixels of the image, of the regions to cluster again in a crop: those smaller than
    `theta_small` of the image or, with `recluster: all`, every one."""
    regions, scores = cluster(features_hwC, params, on_tree)
    is_small = regions.mean((1, 2)) < params.theta_small
    again = is_small if params.recluster == "small" else np.ones(len(regions), bool)
    patch = np.divide(image_hw, regions.shape[1:])
    boxes = np.rint(masks.bounding_boxes(regions[again]) * np.tile(patch, 2)).astype(np.int64)
    placed = place(regions[~is_small], np.array([0, 0, *image_hw]), image_hw=image_hw, size=size)
    return Candidates(placed, np.full(len(placed), "global"), scores[~is_small]), boxes


def local_regions(
    image_HW3: np.ndarray, boxes_yxyx: np.ndarray, extract: Extract, params: ExploreParams, *, size: tuple[int, int]
) -> Candidates:
    """Step 2: the regions in a crop around each box that do not touch the crop's cut sides, as masks of `size`."""
    height, width = image_HW3.shape[:2]
    crops = crop_boxes(boxes_yxyx, image_hw=(height, width), min_crop=params.min_crop)
    sides = np.full(len(crops), params.crop_size)
    if params.recluster == "all":
        scale = params.image_size / max(height, width)
        sides = view_sides(crops, scale, crop_size=params.crop_size, image_size=params.image_size)
    found: list[PackedMasks] = []
    scores = [np.zeros(0, np.float32)]
    for side in np.unique(sides[sides > 0]):  # images of one size at a time
        at_once = max(1, PIXELS_AT_ONCE // side**2)
        for batch in _batches(crops[sides == side], at_once):
            views = [square(image_HW3[y0:y1, x0:x1], side) for y0, x0, y1, x1 in batch]
            for crop, features in zip(batch, extract(views), strict=True):
                regions, of_regions = cluster(features, params)
                whole = ~touches_cut(regions, crop, image_hw=(height, width))
                found.append(place(regions[whole], crop, image_hw=(height, width), size=size))
                scores.append(of_regions[whole])
    placed = join(found, size=size)
    return Candidates(placed, np.full(len(placed), "local"), np.concatenate(scores))


def _batches(crops_M4: np.ndarray, at_once: int) -> Iterator[np.ndarray]:
    for first in range(0, len(crops_M4), at_once):
        yield crops_M4[first : first + at_once]


def view_sides(crops_yxyx: np.ndarray, scale: float, *, crop_size: int, image_size: int) -> np.ndarray:
    """(M,) int64: the side in pixels to which `recluster: all` resizes each crop; 0 to skip the crop.

    scale: of the view of the whole image. Ours: `crop_size`, doubled until the crop is at least twice as large as in
    that view, up to `image_size`. A crop magnified less than 1.5 times is skipped, as it shows nothing new.
    """
    seen = (crops_yxyx[:, 2:] - crops_yxyx[:, :2]).max(1) * scale
    doublings = np.ceil(np.log2(np.maximum(2 * seen / crop_size, 1))).astype(np.int64)
    sides = np.minimum(crop_size << doublings, image_size)
    return np.where(sides >= 1.5 * seen, sides, 0)


def cluster(
    features_hwC: np.ndarray, params: ExploreParams, on_tree: OnTree | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N, h, w) bool regions of a feature map at all thresholds, largest first, and their (N,) float32 scores."""
    tree = tree_of(features_hwC, params)
    if on_tree is not None:
        on_tree(tree)
    nodes = select_regions(tree, theta_merge=params.theta_merge, nms_iou=params.nms_iou)
    scores = np.ones(len(nodes), np.float32)
    if params.min_stability > 0:
        scores = stability(tree, nodes, same_iou=params.nms_iou).astype(np.float32)
        nodes, scores = nodes[scores >= params.min_stability], scores[scores >= params.min_stability]
    return region_masks(tree, nodes), scores


def tree_of(features_hwC: np.ndarray, params: ExploreParams) -> MergeTree:
    """The merge tree of a feature map."""
    return merge_tree(as_clustered(features_hwC, params))


def as_clustered(features_hwC: np.ndarray, params: ExploreParams) -> np.ndarray:
    """The features that every method gets: with `normalise`, of norm 1."""
    return unit_features(features_hwC) if params.normalise else features_hwC


def square(image_HW3: np.ndarray, side: int) -> np.ndarray:
    """The image resized to a square of `side` pixels; where both sides shrink, averaged, to avoid aliasing."""
    shrinks = side < max(image_HW3.shape[:2])
    return cv2.resize(image_HW3, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def crop_boxes(boxes_yxyx: np.ndarray, *, image_hw: tuple[int, int], min_crop: int) -> np.ndarray:
    """(M, 4) int64 crops (y0, x0, y1, x1) in pixels that show the (N, 4) boxes with their surroundings, M <= N.

    Ours: a square centred on the box, its side the larger of `min_crop` and twice the box's longer side, moved into
    the image and clipped to it. Larger crops come first. A crop is dropped if an earlier one contains its box and
    their IoU is at least SHARE_IOU.
    """
    boxes = np.asarray(boxes_yxyx, np.int64).reshape(-1, 4)
    limit = np.array(image_hw)
    sides = np.maximum(2 * (boxes[:, 2:] - boxes[:, :2]).max(1), min_crop)
    sizes = np.minimum(sides[:, None], limit)
    starts = np.clip((boxes[:, :2] + boxes[:, 2:] - sizes) // 2, 0, limit - sizes)
    crops = np.concatenate([starts, starts + sizes], 1)
    kept = np.zeros((0, 4), np.int64)
    for i in np.argsort(-sides, kind="stable"):
        shows = (kept[:, :2] <= boxes[i, :2]).all(1) & (boxes[i, 2:] <= kept[:, 2:]).all(1)
        if not (shows & (_box_iou(crops[i], kept) >= SHARE_IOU)).any():
            kept = np.concatenate([kept, crops[i : i + 1]])
    return kept


def _box_iou(box: np.ndarray, others_N4: np.ndarray) -> np.ndarray:
    overlap = np.minimum(box[2:], others_N4[:, 2:]) - np.maximum(box[:2], others_N4[:, :2])
    shared = overlap.clip(0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others_N4[:, 2:] - others_N4[:, :2]).prod(1) - shared)


def place(
    masks_Nhw: np.ndarray, crop_yxyx: np.ndarray, *, image_hw: tuple[int, int], size: tuple[int, int]
) -> PackedMasks:
    """Masks on the patch grid of a crop, as masks of the whole image at `size` (height, width).

    crop_yxyx: the crop in pixels of the image. Each pixel takes the value of the patch that contains its centre, and is
    false outside the crop.
    """
    (first_row, from_rows), (first_column, from_columns) = (
        _patches_under(crop_yxyx[axis], crop_yxyx[axis + 2], masks_Nhw.shape[1 + axis], image_hw[axis], size[axis])
        for axis in (0, 1)
    )
    return lay(masks_Nhw, from_rows, from_columns, size=size, origin=(first_row, first_column))


def _patches_under(start: int, stop: int, patches: int, side: int, pixels: int) -> tuple[int, np.ndarray]:
    """Along one axis: the first of `pixels` whose centre lies in [start, stop), and the patch under each such pixel."""
    centres = (np.arange(pixels) + 0.5) * side / pixels
    inside = np.flatnonzero((start <= centres) & (centres < stop))
    first = int(inside[0]) if len(inside) else 0
    return first, ((centres[inside] - start) * patches / (stop - start)).astype(np.int64)
