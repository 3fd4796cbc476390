"""`sohes bench score`: CPU seconds and memory of the evaluator and of pycocotools in one run."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sohes import masks
from sohes.bench.cost import cost_of, peak_gb
from sohes.evaluate.recall import evaluate_masks
from sohes.structures import ImageRecord, MaskSet

HEIGHT, WIDTH, TRUTHS = 480, 640, 20
SCENES = 4  # distinct scenes; images repeat them
MAX_MASKS = 1000


def bench_score(reference: bool = False, images: int = 40, masks_per_image: int = 1000) -> dict[str, str | float]:
    """Score `images` images of 640 x 480 with `masks_per_image` predictions and 20 annotated masks each.

    Keys name, seconds_median, cpu_seconds_median, peak_mb (of the process, taken before the reference runs),
    ms_per_image (of CPU time), AR; with `reference` also pycocotools' reference_cpu_seconds and reference_AR, and
    ratio, pycocotools' CPU seconds over ours.
    """
    truth, found = _scenes(TRUTHS, seed=0), _scenes(masks_per_image, seed=1)
    evaluate_masks(_records(truth, 1), _records(found, 1))  # compile the matching before the clock starts
    cost, scores = cost_of(
        lambda: evaluate_masks(_records(truth, images), _records(found, images), max_masks=MAX_MASKS), repeats=1
    )
    figures = {
        **replace(cost, peak_mb=1000 * peak_gb()).figures(4),
        "ms_per_image": round(1000 * cost.cpu_seconds / images, 4),
        "AR": round(scores.AR or 0.0, 4),
    }
    if reference:
        seconds, average_recall = _pycocotools(truth, found, images)
        figures |= {
            "reference_cpu_seconds": round(seconds, 4),
            "reference_AR": round(average_recall, 4),
            "ratio": round(seconds / cost.cpu_seconds, 4),
        }
    return {"name": "score", **figures}


def _scenes(count: int, *, seed: int) -> list[MaskSet]:
    """Ellipses at random positions: similar positions for every seed, so that some match."""
    ys, xs = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    scenes = []
    for scene in range(SCENES):
        places, noise = np.random.default_rng(scene), np.random.default_rng((seed, scene))
        drawn = np.zeros((count, HEIGHT, WIDTH), bool)
        for mask in drawn:
            y, x, ry, rx = places.random(4) * (HEIGHT, WIDTH, 80, 80) + (0, 0, 5, 5) + noise.normal(size=4) * seed * 2
            mask[:] = ((ys - y) / ry) ** 2 + ((xs - x) / rx) ** 2 < 1
        scenes.append(masks.mask_set(drawn, scores=noise.random(count)))
    return scenes


def _records(scenes: list[MaskSet], images: int) -> Iterator[ImageRecord]:
    """Repeat the scenes lazily, so that only the evaluator's memory counts."""
    for image in range(images):
        yield ImageRecord(image + 1, "", "", scenes[image % len(scenes)])


def _pycocotools(truth_scenes: list[MaskSet], found_scenes: list[MaskSet], images: int) -> tuple[float, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, detections = [], []
    for record in _records(truth_scenes, images):
        for rle, area in zip(masks.coco_rles(record.masks), masks.areas(record.masks), strict=True):
            annotations.append({"segmentation": rle, "area": int(area), "iscrowd": 0, "image_id": record.image_id})
    for number, annotation in enumerate(annotations, start=1):
        annotation |= {"id": number, "category_id": 1}
    for record in _records(found_scenes, images):
        for rle, score in zip(masks.coco_rles(record.masks), record.masks.scores.tolist(), strict=True):
            detections.append({"segmentation": rle, "score": score, "image_id": record.image_id, "category_id": 1})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        start = time.process_time()
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i + 1, "height": HEIGHT, "width": WIDTH} for i in range(images)],
            "annotations": annotations,
            "categories": [{"id": 1}],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "segm")
        evaluation.params.maxDets = [1, 10, 100, MAX_MASKS]
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.process_time() - start
    return seconds, 100 * float(evaluation.eval["recall"][:, 0, 0, -1].mean())
