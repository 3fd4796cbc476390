"""Predictions as a folder of SA-1B JSON, an image a file: SAM's, UnSAM's, those of `sohes segment` and `export`.

Each file is `{"image": {"file_name", "height", "width", ...}, "annotations": [{"segmentation", ...}, ...]}`. The score
of a mask is `score`, else SAM's `predicted_iou`, else 1. A file without a `file_name` stands for the image that has
its own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco
from sohes.data.benchmarks.predictions.coco_json import Found, add, as_record
from sohes.errors import SohesError
from sohes.structures import ImageRecord

SOURCE = "sa1b_json"


def read(folder: Path) -> Iterator[ImageRecord]:
    """The records of the folder's `*.json`, in the order of their names. SohesError names a file of another kind."""
    return map(_record, sorted(folder.glob("*.json")))


def _record(path: Path) -> ImageRecord:
    content = coco.read_json(path)
    image = content.get("image") if isinstance(content, dict) else None
    if not isinstance(image, dict) or not isinstance(content.get("annotations"), list):
        raise SohesError(f"{path} is not SA-1B JSON: it needs `image` and `annotations`")
    if type(image.get("height")) is not int or type(image.get("width")) is not int:
        raise SohesError(f"{path}: its image needs whole numbers height and width (got {image})")
    name = image.get("file_name") or path.stem
    found = Found((image["height"], image["width"]))
    for annotation in content["annotations"]:
        add(found, annotation, name, path)
    number = image.get("image_id", image.get("id"))
    return as_record(number if type(number) is int else -1, name, found, source=SOURCE)
