"""Compare settings of phase 1: AR and seconds of each on the same photographs, in one run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from sohes.evaluate.recall import Scores, evaluate_masks
from sohes.explore.label_image import label_image
from sohes.explore.local import Extract
from sohes.params import ExploreParams
from sohes.params.explore import Method
from sohes.structures import ImageRecord

METHODS: tuple[str, ...] = get_args(Method)
Settings = Mapping[str, tuple[Extract, ExploreParams]]


@dataclass(frozen=True)
class Outcome:
    """Scores, cost and masks of one setting. cpu_seconds: per image, including features, refiner and forest."""

    scores: Scores
    cpu_seconds: float
    records: list[ImageRecord]


class Remembering:
    """An extractor that caches features by pixels, and adds up the time that the cache saved."""

    def __init__(self, extract: Extract) -> None:
        self.extract = extract
        self.saved_seconds = 0.0  # cost of the features that came from the cache
        self._known: dict[tuple, tuple[list[np.ndarray], float]] = {}

    def forget(self) -> None:
        self._known.clear()

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        if not images:
            return []
        pixels = np.stack(images)
        key = pixels.shape, hashlib.blake2b(pixels.tobytes()).digest()
        if key in self._known:
            features, seconds = self._known[key]
            self.saved_seconds += seconds
            return features
        start = time.process_time()
        features = self.extract(images)
        self._known[key] = features, time.process_time() - start
        return features


def compare_settings(photographs: Iterable[tuple[ImageRecord, np.ndarray]], settings: Settings) -> dict[str, Outcome]:
    """The outcome of each setting. The first image is labelled once untimed, to warm up.

    photographs: pairs of annotation and (H, W, 3) uint8 pixels. Settings with the same extractor share its features of
    an image, but the cost counts for each of them.
    """
    extractors = {id(extract): Remembering(extract) for extract, _ in settings.values()}
    found: dict[str, list[ImageRecord]] = {name: [] for name in settings}
    seconds = dict.fromkeys(settings, 0.0)
    truth: list[ImageRecord] = []
    for record, image_HW3 in photographs:
        if not truth:
            for extract, params in settings.values():
                label_image(image_HW3, extract, params)
        truth.append(record)
        for name, (original, params) in settings.items():
            extract = extractors[id(original)]
            start, before = time.process_time(), extract.saved_seconds
            labels = label_image(image_HW3, extract, params)
            seconds[name] += time.process_time() - start + extract.saved_seconds - before
            found[name].append(ImageRecord(record.image_id, record.file_name, "", labels))
        for extract in extractors.values():
            extract.forget()
    return {
        name: Outcome(evaluate_masks(truth, found[name]), seconds[name] / len(truth), found[name]) for name in settings
    }
