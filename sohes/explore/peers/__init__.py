"""Our versions of other methods that find pseudo-labels, to compare phase 1 with on the same features.

Each takes the (h, w, C) features of the whole image and returns (N, h, w) bool regions, most important first. They
replace steps 1 and 2 of phase 1; suppression, refinement and the forest are the same for all.
"""

from __future__ import annotations

import numpy as np

from sohes.explore.local import Candidates, as_clustered, place
from sohes.explore.peers.divide import divide_and_conquer
from sohes.explore.peers.hassod import adaptive_clusters
from sohes.explore.peers.maskcut import maskcut
from sohes.explore.peers.threshold import threshold_components
from sohes.params import ExploreParams


def peer_candidates(
    features_hwC: np.ndarray, params: ExploreParams, *, image_hw: tuple[int, int], size: tuple[int, int]
) -> Candidates:
    """The masks of the method `explore.method`, at `size` (height, width). ValueError for `sohes`, which is no peer."""
    peers, features_hwC = params.peers, as_clustered(features_hwC, params)
    match params.method:
        case "maskcut":
            regions = maskcut(features_hwC, tau=peers.maskcut_tau, cuts=peers.maskcut_cuts)
        case "hassod":
            regions = adaptive_clusters(features_hwC, theta_merge=peers.hassod_theta_merge, nms_iou=params.nms_iou)
        case "divide":
            regions = divide_and_conquer(
                features_hwC,
                tau=peers.maskcut_tau,
                cuts=peers.maskcut_cuts,
                theta_merge=params.theta_merge,
                nms_iou=params.nms_iou,
            )
        case "threshold":
            regions = threshold_components(features_hwC, thetas=peers.threshold_thetas)
        case _:
            raise ValueError(f"method must be a peer (got {params.method!r})")
    placed = place(regions, np.array([0, 0, *image_hw]), image_hw=image_hw, size=size)
    return Candidates(placed, np.full(len(placed), params.method), np.ones(len(placed), np.float32))
