"""Predictions in COCO's JSON: the results list, and annotation files with `images` that carry scores or none.

The results list (`coco_instances_results.json`) is what detectron2's evaluation writes, and so what FreeSOLO, CutLER,
HASSOD and UnSAM leave behind: `[{"image_id", "category_id", "segmentation", "score", ...}, ...]`. It names no file and
says nothing of an image without detections. The other form is a dictionary with `images` and `annotations`, as the
pseudo-labels of CutLER, HASSOD and FreeSOLO and `sohes export` have it. Categories and boxes do not matter; a mask
without a score has 1; `parent`, the id of another annotation of the image, is ours and makes the forest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import coco
from sohes.errors import SohesError
from sohes.masks.forest import forest_ancestors
from sohes.structures import ImageRecord, MaskSet

SOURCE = "coco_json"
_CHUNK = 2**20  # characters


@dataclass
class Found:
    """The masks of one image, as they are collected."""

    size: tuple[int, int]
    rles: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    above: list[Any] = field(default_factory=list)  # the id of the parent, or None


def read(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    """The records of a file, in the order in which its images first appear; a results list gives no file names.

    sizes: (height, width) of the benchmark's images, for polygons in a results list, which do not know it.
    The list is read piece by piece: of 5 million masks only run lengths and scores are kept.
    SohesError for another kind of file, and for a mask or score that cannot be read.
    """
    if _first_character(path) == "[":
        yield from _results(path, sizes)
    else:
        yield from _annotated(path)


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(4096).lstrip()[:1]


def _results(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    found: dict[int, Found] = {}
    for detection in iter_list(path):
        image_id = detection.get("image_id") if isinstance(detection, dict) else None
        if type(image_id) is not int:
            raise SohesError(f"{path} is no list of COCO results: an item needs a whole number image_id")
        if image_id not in found:
            found[image_id] = Found(_size(detection, image_id, sizes, path))
        add(found[image_id], detection, f"image {image_id}", path)
    for image_id in list(found):
        yield as_record(image_id, "", found.pop(image_id))


def _size(detection: Any, image_id: int, sizes: Mapping[int, tuple[int, int]], path: Path) -> tuple[int, int]:
    segmentation = detection.get("segmentation")
    if isinstance(segmentation, dict) and len(segmentation.get("size", ())) == 2:
        return tuple(segmentation["size"])
    if image_id in sizes:
        return sizes[image_id]
    raise SohesError(f"{path} has masks of image {image_id}, which the benchmark does not have: mend its image_id")


def _annotated(path: Path) -> Iterator[ImageRecord]:
    content = coco.load(path)
    of_image = defaultdict(list)
    for annotation in content["annotations"]:
        of_image[annotation.get("image_id")].append(annotation)
    for image in content["images"]:
        found = Found((image["height"], image["width"]))
        for annotation in of_image[image["id"]]:
            add(found, annotation, image["file_name"], path)
        yield as_record(image["id"], image["file_name"], found)


def add(found: Found, annotation: dict[str, Any], where: str, path: Path) -> None:
    """One more mask with its score: `score`, or SAM's `predicted_iou`, or 1."""
    image = {"height": found.size[0], "width": found.size[1], "file_name": where}
    score = annotation.get("score", annotation.get("predicted_iou", 1.0))
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise SohesError(f"{path}: a mask of {where} has the score {score!r}: give it a finite number")
    found.rles.append(coco.rle_of(annotation, image, path))
    found.scores.append(float(score))
    found.ids.append(annotation.get("id"))
    found.above.append(annotation.get("parent", annotation.get("parent_id")))


def as_record(image_id: int, file_name: str, found: Found, *, source: str = SOURCE) -> ImageRecord:
    """The collected masks as a record; a parent that the image does not have makes a root."""
    index = {mask_id: i for i, mask_id in enumerate(found.ids) if mask_id is not None}
    parents = np.array([-1 if above is None else index.get(above, -1) for above in found.above], np.int64)
    try:
        forest_ancestors(parents)
    except ValueError as error:
        raise SohesError(f"the masks of {file_name or image_id} are no forest: {error}") from None
    scores = np.array(found.scores, np.float64)  # as precise as the file: float32 would make ties of near scores
    masks = MaskSet(*found.size, tuple(found.rles), scores, parents, (source,) * len(found.rles))
    return ImageRecord(image_id, file_name, "", masks)


def iter_list(path: Path) -> Iterator[Any]:
    """The items of a file that holds one JSON list of objects, a piece of it in memory at a time."""
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8") as file:
            text, at, more = file.read(_CHUNK).lstrip()[1:], 0, True
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                if at < len(text) and text[at] == "]":
                    return
                try:
                    item, at = decoder.raw_decode(text, at)
                except json.JSONDecodeError:
                    if not more:
                        raise
                    chunk = file.read(max(_CHUNK, len(text) - at))  # at least doubles: an item is decoded again
                    text, at, more = text[at:] + chunk, 0, bool(chunk)
                    continue
                yield item
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SohesError(f"{path} is not valid JSON: {error}") from None
