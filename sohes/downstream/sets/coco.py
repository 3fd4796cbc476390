"""COCO 2017's boxes of 80 classes: train2017 to learn from, val2017 to be scored on (paper figure 6: AP).

Crowd regions are left out on both sides, and so are boxes without area.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import coco as reader
from sohes.data.benchmarks import layout
from sohes.data.benchmarks.catalogue import decode_photograph
from sohes.downstream.sets.examples import ClassSet, Example, Key, example
from sohes.errors import SohesError
from sohes.masks import gate
from sohes.masks.mask_json import is_crowd, named


def open_set(root: Path) -> ClassSet:
    """SohesError if a split is missing."""
    splits: list[tuple[Key, ...]] = []
    classes: tuple[str, ...] = ()
    for split in ("train2017", "val2017"):
        remedy = "unpack COCO 2017's Train images, Val images and Train/Val annotations there"
        path = layout.find(root, f"annotations/instances_{split}.json", name="both splits of COCO", remedy=remedy)
        content = reader.load(path)
        classes = tuple(category["name"] for category in categories(content, path))
        splits.append(_boxes(content, split, path))
    return ClassSet(classes, train=splits[0], val=splits[1], read=partial(_read, root=Path(root)))


def categories(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """By rising id: a class is a category's place in this list. SohesError if one lacks an id or a name."""
    found: Any = content.get("categories")
    try:
        return sorted(({**one, "id": int(one["id"]), "name": str(one["name"])} for one in found), key=itemgetter("id"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise SohesError(f"{path} needs categories, each with a name and a whole number id") from None


def box_and_class(annotation: dict[str, Any], places: Mapping[int, Any], path: Path) -> tuple[list[float], Any]:
    """The (x, y, width, height) of an annotation, and what `places` has for its category. SohesError names it if one of
    them cannot be read."""
    bbox, category = annotation.get("bbox"), gate.whole(annotation.get("category_id"))
    numbers = map(gate.number, bbox if isinstance(bbox, list) and len(bbox) == 4 else ())
    box = [value for value in numbers if value is not None]
    if len(box) != 4 or category is None or category not in places:
        raise SohesError(
            f"{path}: {named(annotation)} needs a box of four finite numbers and one of the categories (got "
            f"{bbox!r:.80} and {annotation.get('category_id')!r:.80})"
        )
    return box, places[category]


def _boxes(content: dict[str, Any], folder: str, path: Path) -> tuple[Key, ...]:
    """(folder, file name, (height, width), boxes_T4, labels_T) of each image."""
    places = {category["id"]: place for place, category in enumerate(categories(content, path))}
    found = defaultdict(list)
    for annotation in content["annotations"]:
        if not is_crowd(annotation, folder, path):
            box, place = box_and_class(annotation, places, path)
            if min(box[2:]) > 0:
                found[annotation["image_id"]].append((box, place))
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
