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

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.masks import encode, gate
from sohes.masks.mask_json import Remarks, coco_images, is_crowd, named
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
    content: dict[str, Any], path: Path, image_ids: Collection[int] | None = None, *, remarks: Remarks | None = None
) -> Iterator[ImageRecord]:
    """As `coco.read_content`: the ground truth of the images, or of `image_ids` only, in the file's order."""
    remarks = Remarks() if remarks is None else remarks
    kept = 0
    for image, found in coco_images(content, remarks):
        if image_ids is None or image["id"] in image_ids:
            yield (record := _record(image, found, path, remarks))
            kept += record.masks.entities
    if image_ids is None:
        coco.check_usable(kept, len(content["annotations"]), path, remarks)


def _record(image: dict[str, Any], found: list[dict[str, Any]], path: Path, remarks: Remarks) -> ImageRecord:
    name = image["file_name"]
    for extra in found[:-1]:
        remarks.add("another annotation of the same image follows", f"{named(extra)} of {name}")
    segments = segments_of(found[-1], name, path) if found else []
    rles: list[bytes] = []
    if segments:
        ids_HW = segment_ids(path, found[-1], image)
        for segment in segments:  # one by one: a thousand pictures at once take gigabytes
            rles += encode((ids_HW == segment["id"])[None])
        if not np.isin(ids_HW, [0, *(segment["id"] for segment in segments)]).all():
            remarks.add("segments_info lacks an id that the PNG has", f"one of {name}")
    names = [f"{named(segment)} of {name}" for segment in segments]
    crowd, stated = [is_crowd(one, name, path) for one in segments], [one.get("area") for one in segments]
    return coco.record(image, rles, NAME, crowd=crowd, stated_areas=stated, remarks=remarks, names=names)


def segments_of(annotation: dict[str, Any], where: str, path: Path) -> list[dict[str, Any]]:
    """The annotation's `segments_info`, whose ids become whole numbers. SohesError if it is none."""
    segments = annotation.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise SohesError(f"{path}: {named(annotation)} of {where} has no segments_info: a panoptic file needs it")
    for segment in segments:
        if (number := gate.whole(segment.get("id"))) is None:
            raise SohesError(f"{path}: a segment of {where} needs a whole number id (got {segment.get('id')!r:.80})")
        segment["id"] = number
    return segments


def segment_ids(path: Path, annotation: dict[str, Any], image: dict[str, Any]) -> np.ndarray:
    """(H, W) int64 ids of the PNG that an annotation of the JSON file `path` names.

    A PNG with one channel may hold the ids as its values: of the two readings, the one that has more of the segments.
    """
    name = annotation.get("file_name")
    if not isinstance(name, str) or not name:
        raise SohesError(f"{path}: {named(annotation)} of {image['file_name']} names no PNG: it needs file_name")
    png = Path(path).with_suffix("") / name
    size = image["height"], image["width"]
    try:
        values = layout.read_png(png, size)
        if values.ndim == 3 and values.shape[2] > 2:
            return _coded(values)
        readings = _coded(layout.read_png(png, size, mode="RGB")), values.reshape(*size, -1)[..., 0].astype(np.int64)
    except FileNotFoundError:
        raise SohesError(f"the annotation {png} cannot be read: there is no such file") from None
    wanted = [segment["id"] for segment in annotation["segments_info"]]
    return max(readings, key=lambda ids_HW: np.isin(wanted, ids_HW).sum())  # the first of equals


def _coded(colours_HWC: np.ndarray) -> np.ndarray:
    return colours_HWC[..., :3].astype(np.int64) @ np.array([1, 256, 65536])
