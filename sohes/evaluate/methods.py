"""Ways to find pseudo-labels side by side: AR and seconds of each on the same photographs and features, in one run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from sohes.evaluate.recall import Scores, evaluate_masks
from sohes.explore.label_image import label_image
from sohes.explore.local import Extract
from sohes.params import ExploreParams
from sohes.structures import ImageRecord, MaskSet

METHODS = ("sohes", "maskcut", "hassod", "divide", "threshold")


def compare_methods(
    photographs: Iterable[tuple[ImageRecord, np.ndarray]],
    extract: Extract,
    params: ExploreParams,
    *,
    methods: Sequence[str] = METHODS,
) -> dict[str, tuple[Scores, float]]:
    """(scores, CPU seconds an image) of each method, all else in `params` equal; the first image warms up, untimed.

    photographs: the annotation of each and its (H, W, 3) uint8 pixels. Seconds include features, refiner and forest.
    """
    settings = {method: params.model_copy(update={"method": method}) for method in methods}
    found: dict[str, list[ImageRecord]] = {method: [] for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    truth: list[ImageRecord] = []
    for record, image_HW3 in photographs:
        if not truth:
            for method in methods:
                label_image(image_HW3, extract, settings[method])
        truth.append(record)
        for method in methods:
            start = time.process_time()
            labels: MaskSet = label_image(image_HW3, extract, settings[method])
            seconds[method] += time.process_time() - start
            found[method].append(ImageRecord(record.image_id, record.file_name, "", labels))
    return {method: (evaluate_masks(truth, found[method]), seconds[method] / len(truth)) for method in methods}
