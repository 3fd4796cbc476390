"""Predictions in COCO's JSON: the results list, and annotation files with `images` that carry scores or none.

The results list (`coco_instances_results.json`) is what detectron2's evaluation writes, and so what FreeSOLO, CutLER,
HASSOD and UnSAM leave behind: `[{"image_id", "category_id", "segmentation", "score", ...}, ...]`. It names no file and
does not list an image without detections. The other form is a dictionary with `images` and `annotations`, as in the
pseudo-labels of CutLER, HASSOD and FreeSOLO and from `sohes export`. Categories and boxes do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sohes.data.benchmarks import coco
from sohes.errors import SohesError
from sohes.masks.mask_json import Found, coco_images, is_whole_number
from sohes.structures import ImageRecord

SOURCE = "coco_json"
_CHUNK = 2**20  # characters


def read(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    """The records of a file, in the order in which its images first appear; a results list gives no file names.

    sizes: (height, width) of the benchmark's images, for polygons in a results list, which do not hold it.
    The list is read in pieces, and only run lengths and scores are kept: it may hold millions of masks.
    SohesError for another kind of file, and for a mask or score that cannot be read.
    """
    if _first_character(path) == "[":
        yield from _results(path, sizes)
    else:
        yield from _annotated(path)


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(4096).lstrip()[:1]


def _results(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Iterator[ImageRecord]:
    found: dict[int, Found] = {}
    for detection in iter_list(path):
        image_id = detection.get("image_id") if isinstance(detection, dict) else None
        if not is_whole_number(image_id):
            raise SohesError(f"{path} is not a list of COCO results: an item needs a whole number image_id")
        if image_id not in found:
            found[image_id] = Found(_size(detection, image_id, sizes, path), f"image {image_id}", path)
        found[image_id].add([detection])
    for image_id in list(found):
        yield ImageRecord(image_id, "", "", found.pop(image_id).masks(SOURCE))


def _size(detection: Any, image_id: int, sizes: Mapping[int, tuple[int, int]], path: Path) -> tuple[int, int]:
    segmentation = detection.get("segmentation")
    if isinstance(segmentation, dict) and len(segmentation.get("size", ())) == 2:
        return tuple(segmentation["size"])
    if image_id in sizes:
        return sizes[image_id]
    raise SohesError(f"{path} has masks of image {image_id}, which the benchmark does not have: fix its image_id")


def _annotated(path: Path) -> Iterator[ImageRecord]:
    for image, drawn in coco_images(coco.load(path)):
        found = Found((image["height"], image["width"]), image["file_name"], path).add(drawn)
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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SohesError(f"{path} is not valid JSON: {error}") from None
