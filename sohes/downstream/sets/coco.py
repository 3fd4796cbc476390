"""COCO 2017's boxes of 80 classes: train2017 to learn from, val2017 to be scored on (paper figure 6: AP).

Crowd regions are left out on both sides, and so are boxes without area.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import coco as reader
from sohes.data.benchmarks import layout
from sohes.data.benchmarks.catalogue import decode_photograph
from sohes.downstream.sets.examples import ClassSet, Example, Key, example


def open_set(root: Path) -> ClassSet:
    """SohesError if a split is missing."""
    splits: list[tuple[Key, ...]] = []
    classes: tuple[str, ...] = ()
    for split in ("train2017", "val2017"):
        remedy = "unpack COCO 2017's Train images, Val images and Train/Val annotations there"
        path = layout.find(root, f"annotations/instances_{split}.json", name="both splits of COCO", remedy=remedy)
        content = reader.load(path)
        classes = tuple(category["name"] for category in categories(content))
        splits.append(_boxes(content, split))
    return ClassSet(classes, train=splits[0], val=splits[1], read=partial(_read, root=Path(root)))


def categories(content: dict[str, Any]) -> list[dict[str, Any]]:
    """By rising id: a class is a category's place in this list."""
    return sorted(content["categories"], key=lambda category: category["id"])


def _boxes(content: dict[str, Any], folder: str) -> tuple[Key, ...]:
    """(folder, file name, (height, width), boxes_T4, labels_T) of each image."""
    places = {category["id"]: place for place, category in enumerate(categories(content))}
    found = defaultdict(list)
    for annotation in content["annotations"]:
        if not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0:
            found[annotation["image_id"]].append((annotation["bbox"], places[annotation["category_id"]]))
    return tuple(
        (folder, image["file_name"], (image["height"], image["width"]), *_split(found[image["id"]]))
        for image in content["images"]
    )


def _split(boxes: list[tuple[list[float], int]]) -> tuple[np.ndarray, np.ndarray]:
    xywh_T4 = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    xyxy_T4 = np.concatenate([xywh_T4[:, :2], xywh_T4[:, :2] + xywh_T4[:, 2:]], axis=1)
    return xyxy_T4, np.array([label for _, label in boxes], np.int64)


def _read(key: Key, *, root: Path) -> Example:
    folder, name, size, boxes_T4, labels_T = key
    photograph = layout.read_file(root, folder, "images", name=name)
    return example(decode_photograph(photograph, size), boxes_T4=boxes_T4, labels_T=labels_T)
