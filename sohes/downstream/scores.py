"""The metrics of figure 6: mean IoU of classes and AP of boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from sohes.downstream.probes import DetectionProbe, FoundBoxes, SemanticProbe, classes_at
from sohes.downstream.sets.examples import ClassSet, Example, in_square

Boxes = tuple[np.ndarray, np.ndarray]  # boxes_T4 and labels_T of one image
Detected = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes_K4, scores_K, labels_K of one image


@torch.inference_mode()
def score_semantic(network: SemanticProbe, data: ClassSet, *, image_size: int, batch_size: int) -> float:
    """Mean IoU in percent on the validation photographs, at their own size."""
    network.eval()
    total_KK = np.zeros((len(data.classes), len(data.classes)), np.int64)
    for shown, squares, contents in _batches(data, image_size, batch_size):
        logits = network(network.backbone.normalise([square.image_HW3 for square in squares]))
        for one, logits_Khw, content_hw in zip(shown, logits, contents, strict=True):
            found_HW = classes_at(logits_Khw, content_hw=content_hw, image_hw=one.image_HW3.shape[:2], size=image_size)
            total_KK += confusion(one.classes_HW, found_HW, len(data.classes))
    return mean_iou(total_KK)


def confusion(wanted_HW: np.ndarray, found_HW: np.ndarray, classes: int) -> np.ndarray:
    """(K, K) int64 pixels by wanted class (row) and found class (column); wanted classes below 0 do not count."""
    counted = wanted_HW >= 0
    pairs = wanted_HW[counted].astype(np.int64) * classes + found_HW[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(confusion_KK: np.ndarray) -> float:
    """In percent, over the classes that are annotated somewhere. ValueError if none is."""
    wanted_K, found_K, right_K = confusion_KK.sum(1), confusion_KK.sum(0), np.diagonal(confusion_KK)
    there = wanted_K > 0
    if not there.any():
        raise ValueError("no pixel has a class, so there is no IoU")
    return 100 * float(np.mean(right_K[there] / (wanted_K + found_K - right_K)[there]))


@torch.inference_mode()
def score_detection(network: DetectionProbe, data: ClassSet, *, image_size: int, batch_size: int) -> float:
    """COCO's AP of boxes in percent, mean over classes and IoU 0.50 to 0.95, on the validation photographs.

    Boxes are compared in the square that the network sees: IoU does not depend on the scale.
    """
    network.eval()
    wanted: list[Boxes] = []
    found: list[Detected] = []
    for _, squares, _ in _batches(data, image_size, batch_size):
        wanted += [(square.boxes_T4, square.labels_T) for square in squares]
        found += map(_on_cpu, network.detect(network.backbone.normalise([square.image_HW3 for square in squares])))
    return box_average_precision(wanted, found)


def _on_cpu(found: FoundBoxes) -> Detected:
    return found.boxes_K4.float().cpu().numpy(), found.scores_K.float().cpu().numpy(), found.labels_K.cpu().numpy()


def box_average_precision(wanted: Sequence[Boxes], found: Sequence[Detected]) -> float:
    """COCO's AP in percent, at most 100 boxes an image, over the classes that are annotated somewhere.

    ValueError if no box is annotated, or if the two sides differ in the number of images.
    """
    annotations = [
        {"image_id": i, "bbox": _xywh(box), "area": float(np.prod(_xywh(box)[2:])), "category_id": int(n), "iscrowd": 0}
        for i, (boxes_T4, labels_T) in enumerate(wanted, 1)
        for box, n in zip(boxes_T4, labels_T, strict=True)
    ]
    if not annotations:
        raise ValueError("no box is annotated, so there is no AP")
    truth = {
        "images": [{"id": i} for i in range(1, len(wanted) + 1)],
        "annotations": [{**annotation, "id": k} for k, annotation in enumerate(annotations, 1)],
        "categories": [{"id": n} for n in np.unique(np.concatenate([labels_T for _, labels_T in wanted])).tolist()],
    }
    detections = [
        {"image_id": i, "bbox": _xywh(box), "score": float(score), "category_id": int(n)}
        for i, ((boxes_K4, scores_K, labels_K), _) in enumerate(zip(found, wanted, strict=True), 1)
        for box, score, n in zip(boxes_K4, scores_K, labels_K, strict=True)
    ]
    if not detections:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval_faster(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def _xywh(box: np.ndarray) -> list[float]:
    x0, y0, x1, y1 = map(float, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _batches(
    data: ClassSet, image_size: int, batch_size: int
) -> Iterator[tuple[list[Example], list[Example], list[tuple[int, int]]]]:
    """Validation examples, their squares, and the (h, w) of the squares' contents."""
    for first in range(0, len(data.val), batch_size):
        shown = [data.read(key) for key in data.val[first : first + batch_size]]
        squares, contents = zip(*(in_square(one, image_size) for one in shown), strict=True)
        yield shown, list(squares), list(contents)
