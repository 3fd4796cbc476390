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
from sohes.masks import areas
from sohes.masks.forest import relink
from sohes.masks.mask_json import checked_coco, coco_images, run_lengths
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
    content: dict[str, Any], path: Path, image_ids: Collection[int] | None = None, *, source: str = NAME
) -> Iterator[ImageRecord]:
    """The ground truth of the images, or of `image_ids` only, in the file's order, without digests.

    content: what `load` gave for `path`. source: that of every mask. Annotations whose mask has no pixel are dropped:
    no prediction can match them. SohesError says what is wrong.
    """
    for image, drawn in coco_images(content):
        if image_ids is None or image["id"] in image_ids:
            size, name = (image["height"], image["width"]), image["file_name"]
            rles = [run_lengths(annotation, size, name, path) for annotation in drawn]
            yield record(image, rles, source, crowd=[bool(annotation.get("iscrowd")) for annotation in drawn])


def record(
    image: dict[str, Any],
    rles: Sequence[bytes],
    source: str,
    *,
    crowd: Sequence[bool] | None = None,
    parents: Sequence[int] | None = None,
) -> ImageRecord:
    """One image's ground truth: scores 1, by default no crowd and a flat forest; masks without a pixel are dropped."""
    height, width = image["height"], image["width"]
    drawn = areas(MaskSet(height, width, tuple(rles), np.ones(len(rles)), np.full(len(rles), -1), ("",) * len(rles)))
    kept = np.flatnonzero(drawn > 0).tolist()
    masks = MaskSet(
        height,
        width,
        tuple(rles[i] for i in kept),
        np.ones(len(kept), np.float32),
        relink(np.full(len(rles), -1) if parents is None else np.asarray(parents, np.int64), np.array(kept, np.int64)),
        tuple(CROWD if crowd is not None and crowd[i] else source for i in kept),
    )
    return ImageRecord(image["id"], image["file_name"], "", masks)


def load(path: Path) -> dict[str, Any]:
    """A COCO-style JSON file, checked as by `sohes.masks.mask_json`."""
    return checked_coco(read_json(path), path)


def read_json(path: Path) -> Any:
    """The content of a JSON file. SohesError if there is none, or if it is not JSON."""
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except FileNotFoundError:
        raise SohesError(f"no annotations at {path}: fix the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SohesError(f"{path} is not valid JSON: {error}") from None
