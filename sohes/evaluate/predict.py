"""Run a trained segmenter on photographs, batch by batch: windows, letterbox, network, decode, pool, refine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from sohes.data.imaging import fitted_size, letterbox
from sohes.evaluate.pool import pool
from sohes.evaluate.refine import refine_masks
from sohes.masks.windows import Window, windows
from sohes.model.build import Network
from sohes.model.decode import STRIDE as MASK_STRIDE
from sohes.model.decode import decode
from sohes.params import EvaluateParams
from sohes.structures import MaskSet

OUTLINE_CELLS = 2  # cells of the mask map by which an outline may be off; measured: docs/log.md


def device_of(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def best_device() -> torch.device:
    """The first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def segment_images(
    model: Network, images: Iterable[np.ndarray], params: EvaluateParams, *, source: str
) -> Iterator[MaskSet]:
    """The masks, scores and forest of each (H, W, 3) uint8 image, in order (paper 3.2, inference).

    Images may differ in size; the network gets `params.batch_size` of their windows at a time (`params.tiles`).
    `source` is recorded with every mask, usually the phase.
    """
    model.eval()
    found: list[MaskSet] = []
    shown = ((image, window) for image in images for window in _windows(image, params))
    while batch := list(itertools.islice(shown, params.batch_size)):
        for (image, _), one in zip(batch, _find(model, batch, params, source), strict=True):
            found.append(one)
            if len(found) == len(_windows(image, params)):
                yield _settle(model, image, found, params)
                found = []


def _windows(image: np.ndarray, params: EvaluateParams) -> list[Window]:
    return windows(image.shape[:2], levels=params.tiles.levels, overlap=params.tiles.overlap)


def _find(
    model: Network, shown: Sequence[tuple[np.ndarray, Window]], params: EvaluateParams, source: str
) -> Iterator[MaskSet]:
    """The masks in each window, in the frame of its image."""
    crops = (image[y0:y1, x0:x1] for image, window in shown for y0, x0, y1, x1 in [window.box])
    squares, contents = zip(*(letterbox(crop, model.params.image_size) for crop in crops), strict=True)
    output = model(model.backbone.normalise(squares))
    ancestors = output.ancestor_logits_BQQ
    for b, (image, window) in enumerate(shown):
        yield decode(
            output.class_logits_BQ2[b],
            output.mask_logits_BQhw[b],
            None if ancestors is None else ancestors[b],
            content_hw=contents[b],
            image_hw=image.shape[:2],
            window=window.box,
            max_masks=params.max_masks,
            mask_threshold=params.mask_threshold,
            nms_iou=params.nms_iou,
            ancestor_threshold=params.ancestor_threshold,
            theta_cover=model.params.cascade.theta_cover,
            source=source,
        )


def _settle(model: Network, image: np.ndarray, found: Sequence[MaskSet], params: EvaluateParams) -> MaskSet:
    """The masks of all windows of an image as one set, refined."""
    seen = _windows(image, params)
    height, width = image.shape[:2]
    pooled, of_window = pool(
        found,
        [params.tiles.score_factor**window.level for window in seen],
        size=fitted_size(height, width, params.refine_size),
        nms_iou=params.nms_iou,
        theta_cover=params.theta_cover,
        max_masks=params.max_masks,
    )
    longer = np.array([window.longer for window in seen]) / max(height, width)
    return refine_masks(
        image,
        pooled,
        refiner=params.refiner,
        outline_error=OUTLINE_CELLS * MASK_STRIDE / model.params.image_size * longer[of_window],
        longest=params.refine_size,
        refine_min_iou=params.refine_min_iou,
        nms_iou=params.nms_iou,
    )
