"""COCO's instance annotations, and every data set in the same JSON, as class-agnostic ground truth.

Protocol (paper section 4 and appendix B): the 5,000 images of val2017, zero-shot and class-agnostic, so all categories
become one `entity`, and AR counts up to 1,000 masks per image. As in pycocotools, a crowd region (`iscrowd`) is neither
asked for nor counted against a prediction inside it: it is kept with the source `structures.CROWD`. An image without
annotations stays in the set, since predictions on it count for AP. Annotations are drawn in stored pixels: EXIF
rotation must not be applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import layout
from sohes.errors import SohesError
from sohes.masks import areas, gate
from sohes.masks.forest import check_forest, select
from sohes.masks.mask_json import (
    IN_SIDES,
    Remarks,
    checked_coco,
    coco_images,
    drawn_in_sides,
    is_crowd,
    named,
    read_masks,
)
from sohes.structures import CROWD, ImageRecord, MaskSet

NAME = "coco"
INFO = """Get `2017 Val images` and `2017 Train/Val annotations` from cocodataset.org. DIR holds:
  annotations/instances_val2017.json
  val2017/000000000139.jpg ...           (only to predict; scoring reads no image)"""


read_image = layout.photographs("val2017", "images/val2017", "images")


def reader(name: str, *places: str) -> Callable[[Path], Iterator[ImageRecord]]:
    """The `read_benchmark` of one JSON file, in its order. places: where in the unpacked download it may lie."""

    def read_benchmark(root: Path) -> Iterator[ImageRecord]:
        path = layout.find(root, *places, name=name)
        return read_content(load(path), path, source=name)

    return read_benchmark


read_benchmark = reader(NAME, "annotations/instances_val2017.json", "instances_val2017.json")


def read_content(
    content: dict[str, Any],
    path: Path,
    image_ids: Collection[int] | None = None,
    *,
    source: str = NAME,
    remarks: Remarks | None = None,
) -> Iterator[ImageRecord]:
    """The ground truth of the images, or of `image_ids` only, in the file's order, without digests.

    content: what `load` gave for `path`. source: that of every mask. Annotations of no image and those whose mask has
    no pixel, which no prediction can match, are dropped, and counted in `remarks`. If no polygon of the file reaches
    beyond 1, its coordinates are fractions of the image's sides. SohesError says what is wrong, also if every
    annotation of the file would be dropped.
    """
    remarks = Remarks() if remarks is None else remarks
    kept = 0
    if in_sides := drawn_in_sides(content["annotations"]):
        remarks.say(IN_SIDES)
    for image, drawn in coco_images(content, remarks):
        if image_ids is None or image["id"] in image_ids:
            size, name = (image["height"], image["width"]), image["file_name"]
            rles = read_masks(drawn, size, name, path, in_sides=in_sides)
            crowd = [is_crowd(one, name, path) for one in drawn]
            stated = [None if in_sides else one.get("area") for one in drawn]
            names = [f"{named(one)} of {name}" for one in drawn]
            found = record(image, rles, source, crowd=crowd, stated_areas=stated, remarks=remarks, names=names)
            kept += found.masks.entities
            yield found
    if image_ids is None:
        check_usable(kept, len(content["annotations"]), path, remarks)


def check_usable(kept: int, annotations: int, path: Path, remarks: Remarks) -> None:
    """SohesError if a file has annotations, but not one that can be used."""
    if annotations and not kept:
        reasons = "; ".join(remarks.sentences(path)) or f"{path}: all are crowds"
        raise SohesError(f"none of {annotations} annotations can be used: {reasons}: fix or leave out the file")


def record(
    image: dict[str, Any],
    rles: Sequence[bytes],
    source: str,
    *,
    crowd: Sequence[bool] | None = None,
    parents: Sequence[int] | None = None,
    stated_areas: Sequence[Any] | None = None,
    remarks: Remarks | None = None,
    names: Sequence[str] = (),
) -> ImageRecord:
    """One image's ground truth: scores 1, by default no crowd and a flat forest.

    stated_areas: what the file gives as each mask's area; what is no area there counts as none. Masks without a pixel
    are dropped, and counted in `remarks` with one of the `names`.
    """
    height, width = image["height"], image["width"]
    n, above = len(rles), np.full(len(rles), -1) if parents is None else np.asarray(parents, np.int64)
    try:
        check_forest(above)
    except ValueError as error:
        raise SohesError(f"the masks of {image['file_name']} are not a forest: {error}") from None
    drawn = areas(MaskSet(height, width, tuple(rles), np.ones(n), np.full(n, -1), ("",) * n))
    for i in np.flatnonzero(drawn == 0).tolist():
        if remarks is not None:
            remarks.add("no pixel in their masks", names[i])
    masks = MaskSet(
        height,
        width,
        tuple(rles),
        np.ones(n, np.float32),
        above,
        tuple(CROWD if crowd is not None and crowd[i] else source for i in range(n)),
        None if stated_areas is None else np.array(list(map(_area, stated_areas)), np.float64),
    )
    return ImageRecord(image["id"], image["file_name"], "", select(masks, np.flatnonzero(drawn > 0)))


def _area(stated: Any) -> float:
    area = gate.number(stated)
    return np.nan if area is None or not 0 <= area <= gate.MOST_PIXELS else area


def load(path: Path) -> dict[str, Any]:
    """A COCO-style JSON file, checked as by `sohes.masks.mask_json`."""
    return checked_coco(read_json(path), path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. SohesError if there is none, or if it is not JSON."""
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SohesError(f"no annotations at {path}: fix the path") from None
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, a number of thousands of digits
        raise SohesError(f"{path} is not valid JSON: {error}") from None
