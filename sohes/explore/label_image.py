"""Phase 1 for one image: from pixels to a forest of masks (paper 3.1)."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from sohes.data.imaging import fit
from sohes.explore.local import Candidates, Extract, OnTree, global_regions, local_regions, square
from sohes.explore.maps import map_extractors
from sohes.explore.peers import peer_candidates
from sohes.explore.refine import Refiner, make_refiner
from sohes.masks import packed
from sohes.masks.forest import parents_by_coverage
from sohes.masks.stretch import encode_stretched
from sohes.params import ExploreParams
from sohes.structures import MaskSet


def label_image(
    image_HW3: np.ndarray, extract: Extract, params: ExploreParams, on_tree: OnTree | None = None
) -> MaskSet:
    """The pseudo-labels of a (H, W, 3) uint8 RGB image, at its own size (paper 3.1, steps 1 to 4).

    Ours: masks are processed at the image's size with its longer side reduced to `image_size`, which bounds time and
    memory at no measured loss of recall. Every score is 1, or with `min_stability` the region's stability.
    Also ours: with several feature maps (`also`) their refined masks are pooled, without duplicates; those of a single
    map may hold some, which the refinement made alike.
    extract: what `make_extractor` makes of the params.
    on_tree: called with the first map's tree of the whole image, except for peers of phase 1, which have none.
    """
    maps = params.maps
    view = fit(image_HW3, max(one.image_size for one in maps))
    found = [
        masks_of_map(image_HW3, view, of_map, one, on_tree if one is params else None)
        for one, of_map in zip(maps, map_extractors(extract, params), strict=True)
    ]
    pooled = without_duplicates(reduce(add, found), nms_iou=params.nms_iou) if len(found) > 1 else found[0]
    parents = parents_by_coverage(packed.intersections(pooled.masks), theta_cover=params.theta_cover)
    return at_size(pooled, parents, image_HW3.shape[:2])


def masks_of_map(
    image_HW3: np.ndarray, view_HW3: np.ndarray, extract: Extract, params: ExploreParams, on_tree: OnTree | None
) -> Candidates:
    """Steps 1 to 3 on one feature map: distinct masks, refined, of the size of the view.

    As in the paper, duplicates are dropped before the refinement and not after it, which may make two masks alike.
    Ours: where several maps are pooled, the refined masks are compared again.
    """
    size, image_hw = view_HW3.shape[:2], image_HW3.shape[:2]
    (features,) = extract([square(image_HW3, params.image_size)])
    if params.method == "sohes":
        large, small_boxes = global_regions(features, params, image_hw=image_hw, size=size, on_tree=on_tree)
        found = large + local_regions(image_HW3, small_boxes, extract, params, size=size)
    else:
        found = peer_candidates(features, params, image_hw=image_hw, size=size)
    distinct = without_duplicates(found, nms_iou=params.nms_iou)
    refiner = make_refiner(params.refiner, patch=max(size) / max(features.shape[:2]))
    return refine(refiner, view_HW3, distinct, refine_min_iou=params.refine_min_iou)


def without_duplicates(found: Candidates, *, nms_iou: float) -> Candidates:
    """Greedy non-maximum suppression, in the order of the candidates, of which the first of two alike stays.

    Those of the whole image come first, larger ones before smaller ones; then those of each crop, in the same way.
    """
    return found[packed.suppress(found.masks, nms_iou=nms_iou)]


def refine(refiner: Refiner, view_HW3: np.ndarray, found: Candidates, *, refine_min_iou: float) -> Candidates:
    """Step 3: the refined masks, without those whose IoU with the unrefined mask is below `refine_min_iou`."""
    refined = refiner.refine(view_HW3, found.masks)
    return Candidates(refined, found.sources, found.scores)[
        packed.resemble(refined, found.masks, min_iou=refine_min_iou)
    ]


def at_size(found: Candidates, parents_N: np.ndarray, size: tuple[int, int]) -> MaskSet:
    """The masks as run lengths, resized to `size` (height, width) by the nearest pixel."""
    return MaskSet(*size, encode_stretched(found.masks, size), found.scores, parents_N, tuple(found.sources.tolist()))
