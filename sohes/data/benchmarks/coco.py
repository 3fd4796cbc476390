"""COCO's instance annotations, and every data set in the same JSON, as class-agnostic ground truth.

Protocol (paper section 4 and appendix B): the 5,000 images of val2017, zero-shot and class-agnostic, so all categories
become one `entity`, and AR counts up to 1,000 masks an image. As in pycocotools, a crowd region (`iscrowd`) is neither
asked for nor counted against a prediction inside it: it is kept with the source `labels.CROWD`. An image without
annotations stays in the set, since predictions on it count for AP. Annotations are drawn in stored pixels: EXIF
rotation must not be applied.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sohes.data.benchmarks import layout
from sohes.data.store.labels import CROWD
from sohes.errors import SohesError
from sohes.masks import areas
from sohes.masks.forest import relink
from sohes.structures import ImageRecord, MaskSet

NAME = SOURCE = "coco"
INFO = """Get `2017 Val images` and `2017 Train/Val annotations` from cocodataset.org. DIR holds:
  annotations/instances_val2017.json
  val2017/000000000139.jpg ...           (only to predict; scoring reads no image)"""


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth of val2017, in the file's order. SohesError if the folder does not hold it."""
    return read(layout.find(root, "annotations/instances_val2017.json", "instances_val2017.json", name=NAME))


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored: EXIF rotation must not be applied to it."""
    return layout.read_file(root, "val2017", "images/val2017", "images", name=file_name)


def read(path: Path, image_ids: Collection[int] | None = None) -> Iterator[ImageRecord]:
    """The ground truth of the JSON file's images, or of `image_ids` only, in the file's order, without digests.

    Annotations whose mask has no pixel are dropped: no prediction can match them. SohesError names what is wrong.
    """
    yield from read_content(load(path), path, image_ids)


def read_content(
    content: dict[str, Any], path: Path, image_ids: Collection[int] | None = None, *, source: str = SOURCE
) -> Iterator[ImageRecord]:
    """As `read`, from what `load` has read from `path`; `source` is written into every mask's record."""
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation.get("image_id")].append(annotation)
    for image in content["images"]:
        if image_ids is None or image["id"] in image_ids:
            found = [rle_of(annotation, image, path) for annotation in annotations[image["id"]]]
            crowd = [bool(annotation.get("iscrowd")) for annotation in annotations[image["id"]]]
            yield record(image, found, crowd, source)


def record(
    image: dict[str, Any],
    rles: Sequence[bytes],
    crowd: Sequence[bool],
    source: str,
    parents: Sequence[int] | None = None,
) -> ImageRecord:
    """One image's ground truth: scores 1, a flat forest without `parents`; masks without a pixel are dropped."""
    height, width = image["height"], image["width"]
    drawn = areas(MaskSet(height, width, tuple(rles), np.ones(len(rles)), np.full(len(rles), -1), ("",) * len(rles)))
    kept = np.flatnonzero(drawn > 0).tolist()
    masks = MaskSet(
        height,
        width,
        tuple(rles[i] for i in kept),
        np.ones(len(kept), np.float32),
        relink(np.full(len(rles), -1) if parents is None else np.asarray(parents, np.int64), np.array(kept, np.int64)),
        tuple(CROWD if crowd[i] else source for i in kept),
    )
    return ImageRecord(image["id"], image["file_name"], "", masks)


def load(path: Path) -> dict[str, Any]:
    """A COCO-style JSON file, checked: `images` with distinct whole ids, names and sizes, and `annotations`."""
    return checked(read_json(path), path)


def read_json(path: Path) -> Any:
    """What a JSON file holds. SohesError if there is none."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise SohesError(f"no annotations at {path}: mend the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SohesError(f"{path} is not valid JSON: {error}") from None


def checked(content: Any, path: Path) -> dict[str, Any]:
    """The content of a COCO-style JSON file, or a SohesError that says what it lacks."""
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise SohesError(f"{path} is not COCO JSON: it needs the lists `images` and `annotations`")
    for image in content["images"]:
        sound = isinstance(image, dict) and isinstance(image.get("file_name"), str)
        if not sound or not all(type(image.get(key)) is int for key in ("id", "height", "width")):
            raise SohesError(f"{path}: an image needs file_name and whole numbers id, height, width (got {image})")
    if len({image["id"] for image in content["images"]}) < len(content["images"]):
        raise SohesError(f"{path}: an image id occurs twice: give every image an id of its own")
    return content


def rle_of(annotation: dict[str, Any], image: dict[str, Any], path: Path) -> bytes:
    """An annotation's mask as compressed run lengths; COCO knows polygons, and run lengths with and without them."""
    segmentation, size = annotation.get("segmentation"), (image["height"], image["width"])
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
        where = f"annotation {annotation.get('id')} of {image['file_name']}"
        raise SohesError(f"{path}: {where} has no mask that can be read: {error or type(error).__name__}") from None
