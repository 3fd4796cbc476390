"""COCO's panoptic annotations, things and stuff, as class-agnostic ground truth.

Each annotation names a PNG whose colours are segment ids, R + 256 G + 65536 B. Protocol as in `benchmarks.coco`: every
segment, thing or stuff, is one entity; crowd segments are kept with the source `structures.CROWD`, to be ignored; void
pixels (id 0) belong to no entity. The PNGs lie beside the JSON, in the folder of its name without `.json`. The paper
does not use this set; ours: val2017, because its segments cover the whole image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.masks import encode
from sohes.masks.mask_json import coco_images
from sohes.structures import ImageRecord

NAME = "coco_panoptic"
INFO = """Get `2017 Val images` and `2017 Panoptic Train/Val annotations` from cocodataset.org. DIR holds:
  annotations/panoptic_val2017.json
  annotations/panoptic_val2017/000000000139.png ...   (unzip the archive inside the archive)
  val2017/000000000139.jpg ...                        (only to predict; scoring reads no photograph)
A sample in the same format may lie in DIR as panoptic.json, panoptic/*.png and images/*.jpg."""


read_image = coco.read_image


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth of val2017, in the file's order. SohesError if the folder does not hold it."""
    path = find(root)
    return read_content(coco.load(path), path)


def find(root: Path) -> Path:
    """The JSON file in an unpacked download or in a sample. SohesError if there is none."""
    places = ("annotations/panoptic_val2017.json", "panoptic_val2017.json", "panoptic.json")
    return layout.find(root, *places, name=NAME)


def is_panoptic(content: dict[str, Any]) -> bool:
    """Whether the content of a JSON file, as `coco.load` gives it, is of the panoptic kind."""
    return any("segments_info" in annotation for annotation in content["annotations"][:1])


def read_content(
    content: dict[str, Any], path: Path, image_ids: Collection[int] | None = None
) -> Iterator[ImageRecord]:
    """As `coco.read_content`: the ground truth of the images, or of `image_ids` only, in the file's order."""
    for image, found in coco_images(content):
        if image_ids is None or image["id"] in image_ids:
            segments = found[-1]["segments_info"] if found else []
            rles: tuple[bytes, ...] = ()
            if segments:
                ids_HW = segment_ids(Path(path).with_suffix("") / found[-1]["file_name"], image)
                rles = encode(np.stack([ids_HW == segment["id"] for segment in segments]))
            yield coco.record(image, rles, NAME, crowd=[bool(segment.get("iscrowd")) for segment in segments])


def segment_ids(path: Path, image: dict[str, Any]) -> np.ndarray:
    """(H, W) int64 segment ids of a panoptic PNG."""
    try:
        with Image.open(path, formats=["PNG"]) as png:
            colours_HW3 = np.asarray(png.convert("RGB")).astype(np.int64)
    except OSError as error:
        raise SohesError(f"the panoptic PNG {path} cannot be read: {error}") from None
    if colours_HW3.shape[:2] != (image["height"], image["width"]):
        found = f"{colours_HW3.shape[1]} x {colours_HW3.shape[0]}"
        raise SohesError(f"the panoptic PNG {path} is {found}, its image {image['width']} x {image['height']}")
    return colours_HW3 @ np.array([1, 256, 65536])
