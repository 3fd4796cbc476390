"""SAM as a baseline: automatic mask generation by `transformers`, with the user's own weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sohes import masks
from sohes.errors import SohesError, first_sentence
from sohes.structures import MaskSet

SOURCE = "sam"


def make_sam(
    model: Path,
    *,
    device: str,
    points_per_side: int,
    points_per_batch: int,
    pred_iou: float,
    stability: float,
) -> Callable[[np.ndarray], MaskSet]:
    """A function from (H, W, 3) uint8 images to SAM's masks, scored by SAM's predicted IoU.

    model: a folder written by `save_pretrained`, or a snapshot of the hub; nothing is downloaded. points_per_side:
    prompt points per side of the grid. pred_iou, stability: SAM's thresholds for keeping a mask, between 0 and 1.
    SohesError without `transformers`, or if the folder holds no SAM.
    """
    try:
        from transformers import pipeline
    except ImportError:
        raise SohesError("SAM needs the package transformers: install it with `pip install transformers`") from None
    if not (Path(model) / "config.json").is_file():
        raise SohesError(f"no SAM at {model}: name a folder with its config.json, preprocessor and weights")
    try:
        generate = pipeline("mask-generation", model=str(model), device=device)
    except (OSError, ValueError, KeyError) as error:
        reason = first_sentence(error)
        raise SohesError(f"the model in {model} cannot be used for mask generation: {reason}") from None
    settings = {
        "points_per_crop": points_per_side,
        "points_per_batch": points_per_batch,
        "pred_iou_thresh": pred_iou,
        "stability_score_thresh": stability,
    }

    def segment(image_HW3: np.ndarray) -> MaskSet:
        found = generate(Image.fromarray(image_HW3), **settings)
        drawn = [np.asarray(mask, bool) for mask in found["masks"]]
        masks_NHW = np.stack(drawn) if drawn else np.zeros((0, *image_HW3.shape[:2]), bool)
        return masks.mask_set(masks_NHW, scores=np.asarray(found["scores"], np.float32), sources=SOURCE)

    return segment
