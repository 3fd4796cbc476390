"""A folder in COCO's panoptic format, to try both tasks on a few photographs (ours; the paper has no such figure).

Sorted by id, every other photograph is for training and the rest are held out. Classes are the JSON's categories,
things and stuff; only things have boxes. Crowds are void and have no box.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import coco as reader
from sohes.data.benchmarks import coco_panoptic as panoptic
from sohes.data.benchmarks.catalogue import decode_photograph
from sohes.downstream.sets.coco import box_and_class, categories
from sohes.downstream.sets.examples import VOID, ClassSet, Example, Key, example
from sohes.masks.mask_json import is_crowd


def open_set(root: Path) -> ClassSet:
    """SohesError if the folder does not hold the JSON."""
    path = panoptic.find(root)
    content = reader.load(path)
    segments = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    images = sorted((image for image in content["images"] if image["id"] in segments), key=lambda image: image["id"])
    keys = [(image, segments[image["id"]]) for image in images]
    classes = categories(content, path)
    number = {category["id"]: (place, bool(category.get("isthing"))) for place, category in enumerate(classes)}
    read = partial(_read, root=Path(root), path=path, number=number)
    return ClassSet(tuple(category["name"] for category in classes), keys[::2], keys[1::2], read)


def _read(key: Key, *, root: Path, path: Path, number: dict[int, tuple[int, bool]]) -> Example:
    image, annotation = key
    segments = panoptic.segments_of(annotation, image["file_name"], path)
    ids_HW = panoptic.segment_ids(path, annotation, image)
    classes_HW = np.full(ids_HW.shape, VOID, np.int16)
    boxes: list[Any] = []
    labels: list[int] = []
    for segment in segments:
        if is_crowd(segment, image["file_name"], path):
            continue
        (x, y, w, h), (label, is_thing) = box_and_class(segment, number, path)
        classes_HW[ids_HW == segment["id"]] = label
        if is_thing and w > 0 and h > 0:
            boxes.append((x, y, x + w, y + h))
            labels.append(label)
    photograph = panoptic.read_image(root, image["file_name"])
    pixels = decode_photograph(photograph, (image["height"], image["width"]))
    return example(pixels, classes_HW=classes_HW, boxes_T4=boxes, labels_T=labels)
