"""Predictions in one JSON file: COCO's results list, COCO's annotation files, and Label Studio's list of tasks.

The results list (`coco_instances_results.json`) is what detectron2's evaluation writes, and so what FreeSOLO, CutLER,
HASSOD and UnSAM leave behind: `[{"image_id", "category_id", "segmentation", "score", ...}, ...]`. It names no file and
does not list an image without detections. The other form is a dictionary with `images` and `annotations`, with scores
or without, as in the pseudo-labels of CutLER, HASSOD and FreeSOLO and from `sohes export`. Categories and boxes do not
matter. If no polygon of a file reaches beyond 1, coordinates are fractions of the image's sides, as in ground truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sohes.data.benchmarks import coco
from sohes.data.exchange import label_studio
from sohes.errors import SohesError, remark
from sohes.masks import gate
from sohes.masks.mask_json import IN_SIDES, Found, Remarks, coco_images, drawn_in_sides, with_sides
from sohes.structures import ImageRecord

SOURCE = "coco_json"
_CHUNK = 2**20  # characters


def read(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    """The records of a file, in the order in which its images first appear; a results list gives no file names.

    sizes: (height, width) of the benchmark's images, for polygons in a results list, which do not hold it.
    The list is read in pieces, and only run lengths and scores are kept: it may hold millions of masks.
    SohesError for another kind of file, and for a mask or score that cannot be read.
    """
    if _first_character(path) != "[":
        yield from _annotated(path)
    elif label_studio.is_task(next(iter_list(path), None)):
        yield from (label_studio.read_task(task, path) for task in iter_list(path))
    else:
        yield from _results(path, sizes)


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(4096).lstrip()[:1]


def _results(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    found: dict[int, Found] = {}
    in_sides = False
    for detection, in_sides in with_sides(_detections(path)):
        image_id = detection["image_id"]
        if image_id not in found:
            found[image_id] = Found(_size(detection, image_id, sizes, path), f"image {image_id}", path)
        found[image_id].add([detection], in_sides=in_sides)
    _tell(path, in_sides)
    for image_id in list(found):
        yield ImageRecord(image_id, "", "", found.pop(image_id).masks(SOURCE))


def _detections(path: Path) -> Iterator[dict[str, Any]]:
    for detection in iter_list(path):
        image_id = gate.whole(detection.get("image_id")) if isinstance(detection, dict) else None
        if image_id is None:
            raise SohesError(f"{path} is not a list of COCO results: an item needs a whole number image_id")
        detection["image_id"] = image_id
        yield detection


def _tell(path: Path, in_sides: bool) -> None:
    if in_sides:
        remark(f"{path}: {IN_SIDES}")


def _size(detection: Any, image_id: int, sizes: Mapping[int, tuple[int, int]], path: Path) -> tuple[int, int]:
    segmentation = detection.get("segmentation")
    own = segmentation.get("size") if isinstance(segmentation, dict) else None
    if isinstance(own, list) and len(own) == 2:
        try:
            return gate.checked_size(*own)
        except ValueError as error:
            raise SohesError(f"{path}: a mask of image {image_id} has no size that can be read: {error}") from None
    if image_id in sizes:
        return sizes[image_id]
    raise SohesError(f"{path} has masks of image {image_id}, which the benchmark does not have: fix its image_id")


def _annotated(path: Path) -> Iterator[ImageRecord]:
    remarks, content = Remarks(), coco.load(path)
    _tell(path, in_sides := drawn_in_sides(content["annotations"]))
    for image, drawn in coco_images(content, remarks):
        if of_no_image := remarks.sentences(path):
            raise SohesError(f"{of_no_image[0]}: a mask that is lost would lower AR in silence")
        found = Found((image["height"], image["width"]), image["file_name"], path).add(drawn, in_sides=in_sides)
        yield ImageRecord(image["id"], image["file_name"], "", found.masks(SOURCE))


def iter_list(path: Path) -> Iterator[Any]:
    """The items of a file that holds one JSON list of objects, with one piece of it in memory at a time."""
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8-sig") as file:
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
    except (ValueError, RecursionError) as error:
        raise SohesError(f"{path} is not valid JSON: {error}") from None
