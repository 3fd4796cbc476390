"""Run a trained segmenter on photographs, batch by batch: letterbox, network, decode, refine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from sohes.data.imaging import letterbox
from sohes.evaluate.refine import refine_masks
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

    Images may differ in size; the network gets `params.batch_size` of them at a time.
    `source` is recorded with every mask, usually the phase.
    """
    model.eval()
    pending: list[np.ndarray] = []
    for image in images:
        pending.append(image)
        if len(pending) == params.batch_size:
            yield from _segment_batch(model, pending, params, source)
            pending = []
    if pending:
        yield from _segment_batch(model, pending, params, source)


def _segment_batch(model: Network, images: list[np.ndarray], params: EvaluateParams, source: str) -> Iterator[MaskSet]:
    squares, contents = zip(*(letterbox(image, model.params.image_size) for image in images), strict=True)
    output = model(model.backbone.normalise(squares))
    ancestors = output.ancestor_logits_BQQ
    for b, image in enumerate(images):
        found = decode(
            output.class_logits_BQ2[b],
            output.mask_logits_BQhw[b],
            None if ancestors is None else ancestors[b],
            content_hw=contents[b],
            image_hw=image.shape[:2],
            max_masks=params.max_masks,
            mask_threshold=params.mask_threshold,
            nms_iou=params.nms_iou,
            ancestor_threshold=params.ancestor_threshold,
            theta_cover=model.params.cascade.theta_cover,
            source=source,
        )
        yield refine_masks(
            image,
            found,
            refiner=params.refiner,
            outline_error=OUTLINE_CELLS * MASK_STRIDE / model.params.image_size,
            longest=params.refine_size,
            refine_min_iou=params.refine_min_iou,
            nms_iou=params.nms_iou,
        )
