"""Masks as JSON in COCO's and SA-1B's formats, written and read here only.

Beyond the keys of both formats, an annotation that we write has

    score       in [0, 1]; in SA-1B's format also as its `predicted_iou`
    parent_id   the id of the mask that it is a part of, null for a whole entity; also as `parent`, as exports had it
    level       0 for a whole entity, 1 for its parts, ...
    source      the step that found it

Ids start at 1: pycocotools takes 0 for "unmatched".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sohes.errors import SohesError
from sohes.masks.forest import forest_ancestors, levels
from sohes.masks.rle import areas, boxes_xywh
from sohes.structures import CROWD, ImageRecord, MaskSet

CATEGORIES = [{"id": 1, "name": "entity"}]

# ---------------------------------------------------------------- write


def coco_image(masks: MaskSet, file_name: str, image_id: int) -> dict[str, Any]:
    """An item of COCO's `images`."""
    return {"id": image_id, "file_name": file_name, "height": masks.height, "width": masks.width}


def coco_annotations(masks: MaskSet, image_id: int, *, first_id: int = 1) -> list[dict[str, Any]]:
    """Items of COCO's `annotations` in the single category `entity`, with ids from `first_id`."""
    return [
        {**annotation, "image_id": image_id, "category_id": 1, "iscrowd": int(annotation["source"] == CROWD)}
        for annotation in _annotations(masks, first_id)
    ]


def sa1b(masks: MaskSet, file_name: str, image_id: int | None = None) -> dict[str, Any]:
    """SA-1B's JSON of one image, without the keys for prompts and stability, which these masks do not have."""
    image = {"file_name": file_name, "height": masks.height, "width": masks.width}
    return {
        "image": image if image_id is None else {"image_id": image_id, **image},
        "annotations": [{**found, "predicted_iou": found["score"]} for found in _annotations(masks, 1)],
    }


def _annotations(masks: MaskSet, first_id: int) -> list[dict[str, Any]]:
    columns = zip(
        masks.rles,
        areas(masks).tolist(),
        boxes_xywh(masks).tolist(),
        masks.scores.tolist(),
        [None if parent < 0 else first_id + parent for parent in masks.parents.tolist()],
        levels(masks.parents).tolist(),
        masks.sources,
        strict=True,
    )
    return [
        {
            "id": mask_id,
            "segmentation": {"size": [masks.height, masks.width], "counts": rle.decode("ascii")},
            "area": area,
            "bbox": box,
            "score": score,
            "parent_id": parent,
            "parent": parent,
            "level": level,
            "source": source,
        }
        for mask_id, (rle, area, box, score, parent, level, source) in enumerate(columns, first_id)
    ]


# ---------------------------------------------------------------- read


def checked_coco(content: Any, path: Path) -> dict[str, Any]:
    """The content, if it is COCO JSON: `images` with distinct whole ids, names and sizes, and `annotations`.

    SohesError says what is missing; `path` is the file to name.
    """
    if not isinstance(content, dict) or not all(_are_objects(content.get(key)) for key in ("images", "annotations")):
        raise SohesError(f"{path} is not COCO JSON: it needs the lists `images` and `annotations`")
    for image in content["images"]:
        whole = all(is_whole_number(image.get(key)) for key in ("id", "height", "width"))
        if not whole or not isinstance(image.get("file_name"), str):
            raise SohesError(f"{path}: an image needs file_name and whole numbers id, height, width (got {image})")
    if len({image["id"] for image in content["images"]}) < len(content["images"]):
        raise SohesError(f"{path}: an image id occurs twice: give every image an id of its own")
    return content


def coco_images(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image of checked COCO JSON with its annotations, in the file's order."""
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation.get("image_id")].append(annotation)
    for image in content["images"]:
        yield image, annotations[image["id"]]


def read_sa1b(content: Any, path: Path, *, source: str = "") -> ImageRecord:
    """The masks of SA-1B JSON, with scores and parents where it has them. SohesError says what is missing.

    Without an `image_id` the record's is -1; without a `file_name` its name is that of the JSON file.
    """
    image = content.get("image") if isinstance(content, dict) else None
    if not isinstance(image, dict) or not _are_objects(content.get("annotations")):
        raise SohesError(f"{path} is not SA-1B JSON: it needs `image` and `annotations`")
    if type(image.get("height")) is not int or type(image.get("width")) is not int:
        raise SohesError(f"{path}: its image needs whole numbers height and width (got {image})")
    image_id, name = image.get("image_id", image.get("id")), image.get("file_name") or path.stem
    found = Found((image["height"], image["width"]), name, path).add(content["annotations"])
    return ImageRecord(image_id if is_whole_number(image_id) else -1, name, "", found.masks(source))


def is_whole_number(value: Any) -> bool:
    """Whether it is one that our files have room for: 64 bits."""
    return type(value) is int and -(2**63) <= value < 2**63


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


@dataclass
class Found:
    """The masks of one image with scores and parents, collected one annotation at a time.

    where, path: the image and the file, to name in an error.
    """

    size: tuple[int, int]
    where: str
    path: Path
    rles: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    parent_ids: list[Any] = field(default_factory=list)

    def add(self, annotations: Iterable[dict[str, Any]]) -> Found:
        """More masks; one without a score has 1. SohesError for a mask or score that cannot be read."""
        for annotation in annotations:
            score = annotation.get("score", annotation.get("predicted_iou", 1.0))
            if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
                raise SohesError(
                    f"{self.path}: a mask of {self.where} has the score {score!r}: give it a finite number"
                )
            self.rles.append(run_lengths(annotation, self.size, self.where, self.path))
            self.scores.append(float(score))
            self.ids.append(annotation.get("id"))
            self.parent_ids.append(annotation.get("parent_id", annotation.get("parent")))
        return self

    def masks(self, source: str = "") -> MaskSet:
        """What was collected, a root where a parent is not among it. SohesError if the parents form a cycle."""
        try:
            index = {mask_id: i for i, mask_id in enumerate(self.ids) if mask_id is not None}
            parents = np.array([-1 if p is None else index.get(p, -1) for p in self.parent_ids], np.int64)
            forest_ancestors(parents)
        except (TypeError, ValueError) as error:  # TypeError: an id that is a list
            raise SohesError(f"{self.path}: the masks of {self.where} are not a forest: {error}") from None
        scores = np.array(self.scores, np.float64)  # as precise as the file: float32 would tie close scores
        return MaskSet(*self.size, tuple(self.rles), scores, parents, (source,) * len(self.rles))


def run_lengths(annotation: dict[str, Any], size: tuple[int, int], where: str, path: Path) -> bytes:
    """An annotation's mask as compressed run lengths, from polygons or from run lengths, compressed or not.

    size: the image's (height, width). SohesError names the annotation if its mask cannot be read.
    """
    segmentation = annotation.get("segmentation")
    try:
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than 3 corners: no area
            return coco_mask.merge(coco_mask.frPyObjects(polygons or [[0] * 6], *size))["counts"]
        if segmentation is None:
            raise ValueError("there is no segmentation")
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"its size {segmentation['size']} is not the image's {list(size)}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
        return counts.encode("ascii")
    except Exception as error:  # pycocotools raises bare Exceptions for what it does not know
        named = f"annotation {annotation.get('id')} of {where}"
        raise SohesError(f"{path}: {named} has no mask that can be read: {error or type(error).__name__}") from None
