"""Which predicted mask finds which annotated one: the matching behind recall and behind the pictures of it.

D predicted masks by falling score, G annotated masks, A area ranges, I IoU thresholds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from faster_coco_eval.core import mask as rle_mask

from sohes import masks
from sohes.structures import CROWD, MaskSet
from sohes.work.compiled import compiled

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def found_masks(wanted: MaskSet, found: MaskSet, *, max_masks: int) -> tuple[MaskSet, int, int]:
    """The annotated masks as they were found, how many were, and of how many.

    Each annotated mask in its place becomes the predicted one that recall counts at the highest IoU, from 0.5 on, or an
    empty one. Crowd regions need not be found. Of the predicted masks, the `max_masks` most confident count.
    """
    crowd_G = crowds(wanted)
    order_D, iou_DG = ranked_overlaps(wanted, found, max_masks)
    found_G = np.full(len(wanted), -1)
    for match_D in match(iou_DG, crowd_G[None], crowd_G, IOU_THRESHOLDS)[0]:  # what a higher IoU finds, a lower does
        hits = np.flatnonzero(match_D >= 0)
        found_G[match_D[hits]] = order_D[hits]
    found_G[crowd_G] = -1
    empty = masks.encode(np.zeros((1, wanted.height, wanted.width), bool))[0]
    rles = tuple(empty if d < 0 else found.rles[d] for d in found_G)
    return replace(wanted, rles=rles), int((found_G >= 0).sum()), int((~crowd_G).sum())


def crowds(wanted: MaskSet) -> np.ndarray:
    """(G,) bool: regions of many things, which need not be found."""
    return np.array([source == CROWD for source in wanted.sources], bool)


def ranked_overlaps(wanted: MaskSet, found: MaskSet, max_masks: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) places of the most confident predicted masks, and (D, G) their IoU with the annotated ones.

    With a crowd region, it is the share of the predicted mask that lies in it.
    """
    order_D = np.argsort(-found.scores.astype(np.float64), kind="stable")[:max_masks]
    iou_DG = np.zeros((len(order_D), len(wanted)))
    if iou_DG.size:
        rles = masks.coco_rles(found)
        crowd = crowds(wanted).astype(int).tolist()
        iou_DG[:] = rle_mask.iou([rles[d] for d in order_D], masks.coco_rles(wanted), crowd)
    return order_D, iou_DG


@compiled
def match(iou_DG, ignored_AG, crowd_G, thresholds_I):
    """(A, I, D) index of the annotated mask that each predicted one matches, or -1: COCO's greedy matching.

    By falling score, each prediction takes the free mask of highest IoU, the later one among equals, and an ignored
    mask only if there is no other. A crowd region can be taken many times.
    """
    areas, thresholds = ignored_AG.shape[0], len(thresholds_I)
    detections, truths = iou_DG.shape
    matched = np.full((areas, thresholds, detections), -1, np.int64)
    for a in range(areas):
        order = np.argsort(ignored_AG[a], kind="mergesort")  # the ignored ones last
        for t in range(thresholds):
            taken = np.zeros(truths, np.bool_)
            for d in range(detections):
                best, match = min(thresholds_I[t], 1 - 1e-10), -1
                for g in order:
                    if taken[g] and not crowd_G[g]:
                        continue
                    if match >= 0 and not ignored_AG[a, match] and ignored_AG[a, g]:
                        break
                    if iou_DG[d, g] >= best:
                        best, match = iou_DG[d, g], g
                if match >= 0:
                    matched[a, t, d] = match
                    taken[match] = True
    return matched
