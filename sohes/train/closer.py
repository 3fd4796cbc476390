"""What the teacher of phase 3 finds where it looks more closely, and how masks of two origins become one lesson (ours).

The one mechanism behind `correct.tiles`, `correct.parent_crops` and `correct.keep_labels`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import masks
from sohes.masks import forest
from sohes.masks.windows import Box, cut_sides
from sohes.model.decode import cells_shown
from sohes.params import CorrectParams
from sohes.structures import ModelOutput
from sohes.train import augment
from sohes.train.augment import View
from sohes.train.lesson import Lesson, areas_of, is_sure, scores_and_cells, shared_pixels
from sohes.train.tiles import Tiles
from sohes.work.transfer import to_device, to_host


@dataclass(frozen=True)
class Found:
    """Masks found in windows of one weak view, best first.

    masks_MSS: bool, in the weak view, on the teacher's device.  of_window_M: int64.
    """

    masks_MSS: Tensor
    of_window_M: np.ndarray


def in_parts(teacher: Callable[[Tensor], ModelOutput], at_once: int) -> Callable[[Tensor], ModelOutput]:
    """The classes and masks of any number of squares, of which the teacher sees at most `at_once` in one pass."""

    def look(squares_U3SS: Tensor) -> ModelOutput:
        outputs = [teacher(some) for some in squares_U3SS.split(at_once)]
        classes, logits = zip(*((one.class_logits_BQ2, one.mask_logits_BQhw) for one in outputs), strict=True)
        return ModelOutput(torch.cat(classes), torch.cat(logits), None)

    return look


@torch.no_grad()
def with_tiles(
    lesson: Lesson,
    tiles: Tiles,
    output: ModelOutput,
    weak: View,
    shown: Box,
    params: CorrectParams,
    *,
    rng: np.random.Generator,
) -> Lesson:
    """The lesson and what the teacher finds in the tiles, `output`, in one forest.

    A mask that touches a side of its window inside the photograph is left out.
    """
    found = find(output, tiles, params, size=weak.canvas_hw[0], within=weak.resized_hw)
    return joined(lesson.masks_KSS, found.masks_MSS, weak, shown, params, rng=rng)


def find(
    output: ModelOutput, tiles: Tiles, params: CorrectParams, *, size: int, within: tuple[int, int] | None
) -> Found:
    """The teacher's confident masks in each window; the threshold depends on a mask's share of its window.

    Of each window at most `max_targets` masks, the best ones. size: of the weak view. within: the part of it, (height,
    width), that shows the photograph; a mask cut off by a window inside it is dropped. None: none is.
    """
    logits_WQhw = output.mask_logits_BQhw.float()
    scores = _scores(output.class_logits_BQ2, logits_WQhw, tiles, params, *_cells(tiles, logits_WQhw, size, within))
    kept = [min(params.max_targets, int(np.count_nonzero(of_one))) for of_one in scores]
    query = np.concatenate([np.argsort(-of_one, kind="stable")[:n] for of_one, n in zip(scores, kept, strict=True)])
    of_window = np.repeat(np.arange(len(kept)), kept)
    index = to_device(logits_WQhw.device, of_window * scores.shape[1] + query)
    chosen = logits_WQhw.flatten(0, 1)[index].split(kept)
    boxes = (window.box for window in tiles.windows)
    placed = [_place(*one, size) for one in zip(chosen, boxes, tiles.contents, strict=True)]
    by_score = np.argsort(-scores[of_window, query], kind="stable")
    return Found(torch.cat(placed)[to_device(logits_WQhw.device, by_score)], of_window[by_score])


def _scores(
    class_logits_WQ2: Tensor,
    logits_WQhw: Tensor,
    tiles: Tiles,
    params: CorrectParams,
    shown_Whw: np.ndarray,
    cuts_Whw: np.ndarray,
) -> np.ndarray:
    """(W, Q) float64 scores, 0 for a mask that is cut off or that the teacher is not sure of."""
    shown_W1P, cuts_W1P = (to_device(logits_WQhw.device, cells).flatten(1)[:, None] for cells in (shown_Whw, cuts_Whw))
    logits_WQP = logits_WQhw.flatten(2)
    inside_WQP = (logits_WQP > 0) & shown_W1P
    scores_WQ, cells_WQ = scores_and_cells(class_logits_WQ2, logits_WQP, inside_WQP.float())
    cut_WQ = (inside_WQP & cuts_W1P).any(-1)
    scores, cells, cut = torch.stack([scores_WQ, cells_WQ, cut_WQ.float()]).double().cpu().numpy()
    scores *= np.array([[params.tiles.score_factor**window.level] for window in tiles.windows])
    sure = is_sure(scores, cells / shown_Whw.sum((1, 2))[:, None], params)
    return np.where(sure & (cut == 0), scores, 0)


def _cells(
    tiles: Tiles, logits_WQhw: Tensor, size: int, within: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(W, h, w) bool cells of the mask map that show each window, and those along its sides inside the photograph."""
    map_hw = logits_WQhw.shape[2:]
    shown = np.zeros((len(tiles.windows), *map_hw), bool)
    cuts = np.zeros_like(shown)
    for window, content, own, own_cuts in zip(tiles.windows, tiles.contents, shown, cuts, strict=True):
        rows, columns = (cells_shown(s, map_side=n, square_side=size) for s, n in zip(content, map_hw, strict=True))
        own[:rows, :columns] = True
        for side in cut_sides(window.box, image_hw=within) if within else ():
            own_cuts[:rows, :columns][side] = True
    return shown, cuts


def _place(logits_Khw: Tensor, box: Box, content_hw: tuple[int, int], size: int) -> Tensor:
    """(K, S, S) bool masks of the weak view from a window's map, whose content becomes the window's box."""
    y0, x0, y1, x1 = box
    placed = torch.zeros((len(logits_Khw), size, size), dtype=torch.bool, device=logits_Khw.device)
    if len(placed):
        y, x = (
            (torch.arange(side, device=placed.device) + 0.5) * (2 * content / (side * size)) - 1  # -1 to 1: the map
            for side, content in ((y1 - y0, content_hw[0]), (x1 - x0, content_hw[1]))
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
        grown = F.grid_sample(logits_Khw[None], grid, padding_mode="border", align_corners=False)[0]
        placed[:, y0:y1, x0:x1] = grown > 0
    return placed


def joined(
    known_KSS: Tensor,
    found_MSS: Tensor,
    weak: View,
    shown: Box,
    params: CorrectParams,
    *,
    rng: np.random.Generator,
    known_first: bool = False,
) -> Lesson:
    """Known masks, then those found that duplicate neither them nor an earlier one (IoU over `nms_iou`), in one forest.

    No known mask makes way for its duplicate, but `max_targets` still applies, across all scales, to the masks that
    reach into `shown`, the part of the weak view that the student sees.
    known_first: found masks only get the places that the known ones leave.
    """
    together, known = torch.cat([known_KSS, found_MSS]), len(known_KSS)
    y0, x0, y1, x1 = shown
    shared_NN, seen_N = to_host([shared_pixels(together), areas_of(together[:, y0:y1, x0:x1])], np.int64)
    areas_N, iou_NN = np.diagonal(shared_NN), masks.iou_from_intersections(shared_NN)
    filled = np.flatnonzero(areas_N)
    new = filled[filled >= known]
    new = new[iou_NN[new, :known].max(1, initial=0) <= params.nms_iou]
    kept = np.concatenate([np.arange(known), masks.nms_from_iou(iou_NN, new, nms_iou=params.nms_iou)])
    kept = kept[seen_N[kept] > 0]
    chosen = kept[:0]
    for group in np.split(kept, [np.count_nonzero(kept < known)] if known_first else []):
        some = augment.sample_across_scales(areas_N[group], params.max_targets - len(chosen), rng=rng)
        chosen = np.concatenate([chosen, group[some]])
    y0, x0, y1, x1 = weak.window
    return Lesson(
        together[to_device(together.device, chosen)],
        forest.parents_by_coverage(shared_NN[np.ix_(chosen, chosen)], theta_cover=params.theta_cover),
        areas_N[chosen] / ((y1 - y0) * (x1 - x0)),
    )
