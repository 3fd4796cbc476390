"""Pascal-Part (Chen et al., 2014): objects of PASCAL VOC 2010 and their parts, as class-agnostic ground truth.

Protocol (ours; the paper does not use the set): in every image with a `.mat`, every object is an entity and every part
of it another, whose parent is the object. Parts may overlap, and some objects have none. What is not annotated is void
and does not count in AR. Image ids are the digits of the name: 2008_000652 is 2008000652.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sohes.data.benchmarks import coco, layout, matlab
from sohes.errors import SohesError
from sohes.masks import encode
from sohes.structures import ImageRecord

NAME = "pascal_part"
INFO = """Get the annotations (trainval.tar.gz) from the Pascal-Part page and the images of PASCAL VOC 2010. DIR holds:
  Annotations_Part/2008_000002.mat ...                (or the .mat files themselves)
  VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg ...    (or JPEGImages/, or beside the .mat files; only to predict)"""
read_image = layout.photographs("VOCdevkit/VOC2010/JPEGImages", "VOC2010/JPEGImages", "JPEGImages")


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth in the order of the names. SohesError if there is no `.mat`."""
    folder = Path(root) / "Annotations_Part"
    files = sorted((folder if folder.is_dir() else Path(root)).glob("*.mat"))
    if not files:
        layout.find(root, "Annotations_Part", "*.mat", name=NAME)
    return (_record(file, root) for file in files)


def _record(path: Path, root: Path) -> ImageRecord:
    annotation = matlab.read(path, "anno", what="a Pascal-Part annotation")
    try:
        objects = _as_list(annotation["objects"])
        masks: list[np.ndarray] = []
        parents: list[int] = []
        for entry in objects:
            place = len(masks)
            parts = _as_list(entry["parts"])
            masks += [np.asarray(entry["mask"], bool), *(np.asarray(part["mask"], bool) for part in parts)]
            parents += [-1] + [place] * len(parts)
        name = f"{annotation['imname']}.jpg"
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise SohesError(f"{path} is not a Pascal-Part annotation: {error}") from None
    height, width = masks[0].shape if masks and masks[0].ndim == 2 else _size(read_image(root, name), name)
    if any(mask.shape != (height, width) for mask in masks):
        raise SohesError(f"{path} holds masks of several sizes: download it again")
    rles = [rle for mask in masks for rle in encode(mask[None])]
    return coco.record(layout.image(name, (height, width)), rles, NAME, parents=parents)


def _as_list(value: Any) -> list[Any]:
    """MATLAB's array of structs as a list; scipy gives a lone struct as itself."""
    return [value] if isinstance(value, dict) else list(value)


def _size(data: bytes, name: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises a dozen kinds of exceptions on damaged files
        raise SohesError(f"the photograph {name} cannot be read ({error}): download it again") from None
