"""Masks as JSON in COCO's and SA-1B's formats, written and read here only.

Beyond the keys of both formats, an annotation that we write has

    score       in [0, 1]; in SA-1B's format also as its `predicted_iou`
    parent_id   the id of the mask that it is a part of, null for a whole entity; also as `parent`, as exports had it
    level       0 for a whole entity, 1 for its parts, ...
    source      the step that found it, `crowd` for a crowd; in COCO's format a crowd has `iscrowd`, too

Ids start at 1: pycocotools takes 0 for "unmatched".
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sohes.errors import SohesError
from sohes.masks import gate
from sohes.masks.forest import check_forest, levels
from sohes.masks.rle import areas, boxes_xywh
from sohes.structures import CROWD, ImageRecord, MaskSet

IN_SIDES = "no polygon reaches beyond 1, so their coordinates were read as fractions of the image's sides"
CATEGORIES = [{"id": 1, "name": "entity", "supercategory": "entity"}]

# ---------------------------------------------------------------- write


def coco_image(masks: MaskSet, file_name: str, image_id: int) -> dict[str, Any]:
    """An item of COCO's `images`."""
    return {"id": image_id, "file_name": file_name, "height": masks.height, "width": masks.width}


def coco_annotations(masks: MaskSet, image_id: int, *, first_id: int = 1) -> list[dict[str, Any]]:
    """Items of COCO's `annotations` in the single category `entity`, with ids from `first_id`.

    `area` is what the file of a ground truth states, if it does.
    """
    annotations = _annotations(masks, first_id)
    stated = [None] * len(masks) if masks.stated_areas is None else masks.stated_areas.tolist()
    for annotation, area in zip(annotations, stated, strict=True):
        annotation |= {"image_id": image_id, "category_id": 1, "iscrowd": int(annotation["source"] == CROWD)}
        if area is not None and not math.isnan(area):
            annotation["area"] = area
    return annotations


def sa1b(masks: MaskSet, file_name: str, image_id: int | None = None) -> dict[str, Any]:
    """SA-1B's JSON of one image, without the keys for prompts and stability, which these masks do not have."""
    image = {"file_name": file_name, "height": masks.height, "width": masks.width}
    return {
        "image": image if image_id is None else {"image_id": image_id, **image},
        "annotations": [{**found, "predicted_iou": found["score"]} for found in _annotations(masks, 1)],
    }


def _annotations(masks: MaskSet, first_id: int) -> list[dict[str, Any]]:
    columns = zip(
        masks.rles,
        areas(masks).tolist(),
        boxes_xywh(masks).tolist(),
        masks.scores.tolist(),
        [None if parent < 0 else first_id + parent for parent in masks.parents.tolist()],
        levels(masks.parents).tolist(),
        masks.sources,
        strict=True,
    )
    return [
        {
            "id": mask_id,
            "segmentation": {"size": [masks.height, masks.width], "counts": rle.decode("ascii")},
            "area": area,
            "bbox": box,
            "score": score,
            "parent_id": parent,
            "parent": parent,
            "level": level,
            "source": source,
        }
        for mask_id, (rle, area, box, score, parent, level, source) in enumerate(columns, first_id)
    ]


# ---------------------------------------------------------------- read


class Remarks:
    """What a reader has to say of a file: how many annotations it left out for which reason, and other sentences."""

    def __init__(self) -> None:
        self._left_out: dict[str, tuple[int, str]] = {}
        self._said: list[str] = []

    def add(self, reason: str, first: str) -> None:
        """One more annotation that is left out. first: which, in words."""
        count, named = self._left_out.get(reason, (0, first))
        self._left_out[reason] = count + 1, named

    def say(self, sentence: str) -> None:
        self._said.append(sentence)

    def sentences(self, path: Path) -> tuple[str, ...]:
        """All of it, each with the file's name."""
        counted = [f"{n} left out: {reason}, such as {first}" for reason, (n, first) in self._left_out.items()]
        return tuple(f"{path}: {sentence}" for sentence in (*self._said, *counted))


def checked_coco(content: Any, path: Path) -> dict[str, Any]:
    """The content, if it is COCO JSON: `images` with distinct whole ids, names and sizes, and `annotations`.

    Ids and sizes that are written as strings or as 7.0 become whole numbers in it. SohesError says what is missing;
    `path` is the file to name.
    """
    keys = ("images", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise SohesError(f"{path} is not COCO JSON: it needs the lists `images` and `annotations`")
    for key in keys:
        if strange := [item for item in content[key] if not isinstance(item, dict)]:
            raise SohesError(f"{path}: one of its {key} is no object (got {strange[0]!r:.80}): remove it")
    for image in content["images"]:
        number = gate.whole(image.get("id"))
        if number is None or not isinstance(image.get("file_name"), str):
            shown = f"{image!r:.200}"
            raise SohesError(f"{path}: an image needs file_name and whole numbers id, height, width (got {shown})")
        try:
            image["height"], image["width"] = gate.size_of(image)
        except ValueError as error:
            raise SohesError(f"{path}: image {image['file_name']}: {error}") from None
        image["id"] = number
    if len({image["id"] for image in content["images"]}) < len(content["images"]):
        raise SohesError(f"{path}: an image id occurs twice: give every image an id of its own")
    for annotation in content["annotations"]:
        if type(annotation.get("image_id")) is not int:
            annotation["image_id"] = gate.whole(annotation.get("image_id"))
    return content


def coco_images(
    content: dict[str, Any], remarks: Remarks | None = None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each image of checked COCO JSON with its annotations, in the file's order; those of no image go to `remarks`."""
    known = {image["id"] for image in content["images"]}
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["image_id"] in known:
            annotations[annotation["image_id"]].append(annotation)
        elif remarks is not None:
            remarks.add("the file lists no image of their image_id", named(annotation))
    for image in content["images"]:
        yield image, annotations[image["id"]]


def named(annotation: dict[str, Any]) -> str:
    """An annotation in words."""
    return f"annotation {annotation.get('id')!s:.40}"


def read_sa1b(content: Any, path: Path, *, source: str = "") -> ImageRecord:
    """The masks of SA-1B JSON, with scores and parents where it has them. SohesError says what is missing.

    Without an `image_id` the record's is -1; without a `file_name` its name is that of the JSON file.
    """
    image = content.get("image") if isinstance(content, dict) else None
    annotations: Any = content.get("annotations") if isinstance(content, dict) else None
    objects = isinstance(annotations, list) and all(isinstance(item, dict) for item in annotations)
    if not isinstance(image, dict) or not objects:
        raise SohesError(f"{path} is not SA-1B JSON: it needs `image` and `annotations`")
    try:
        size = gate.size_of(image)
    except ValueError as error:
        raise SohesError(f"{path}: its image needs whole numbers height and width: {error}") from None
    image_id, name = gate.whole(image.get("image_id", image.get("id"))), image.get("file_name") or path.stem
    if not isinstance(name, str):
        raise SohesError(f"{path}: its image has the file_name {name!r:.80}: give it a name, or none")
    found = Found(size, name, path).add(annotations, in_sides=drawn_in_sides(annotations))
    return ImageRecord(-1 if image_id is None else image_id, name, "", found.masks(source))


@dataclass
class Found:
    """The masks of one image with scores, parents and sources, collected one annotation at a time.

    where, path: the image and the file, to name in an error.
    """

    size: tuple[int, int]
    where: str
    path: Path
    rles: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    parent_ids: list[Any] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)

    def add(self, annotations: Iterable[dict[str, Any]], *, in_sides: bool = False) -> Found:
        """More masks; one without a score has 1. SohesError for a mask, score or `iscrowd` that cannot be read.

        in_sides: coordinates are fractions of the image's sides.
        """
        for annotation in annotations:
            written = annotation.get("score", annotation.get("predicted_iou", 1.0))
            score = gate.number(written)
            if score is None:
                raise SohesError(
                    f"{self.path}: a mask of {self.where} has the score {written!r:.80}: give it a finite number"
                )
            self.rles.append(run_lengths(annotation, self.size, self.where, self.path, in_sides=in_sides))
            self.scores.append(score)
            self.ids.append(annotation.get("id"))
            self.parent_ids.append(annotation.get("parent_id", annotation.get("parent")))
            own = annotation.get("source")
            crowd = is_crowd(annotation, self.where, self.path)
            self.sources.append(CROWD if crowd else own if isinstance(own, str) else None)
        return self

    def masks(self, source: str = "") -> MaskSet:
        """What was collected; a mask whose parent is not among it is a root, and one that names no source has this one.

        SohesError if a mask is unsound, or if the parents form a cycle.
        """
        rles = checked(self.rles, self.ids, self.size, self.where, self.path)
        try:
            index = {_id(mask_id): i for i, mask_id in enumerate(self.ids) if mask_id is not None}
            parents = np.array([-1 if p is None else index.get(_id(p), -1) for p in self.parent_ids], np.int64)
            check_forest(parents)
        except (TypeError, ValueError) as error:  # TypeError: an id that is a list
            raise SohesError(f"{self.path}: the masks of {self.where} are not a forest: {error}") from None
        scores = np.array(self.scores, np.float64)  # as precise as the file: float32 would tie close scores
        sources = tuple(source if own is None else own for own in self.sources)
        return MaskSet(*self.size, rles, scores, parents, sources)


def _id(value: Any) -> Any:
    """An id as it is compared with others: "7" is 7."""
    number = gate.whole(value)
    return value if number is None else number


def drawn_in_sides(annotations: Iterable[dict[str, Any]]) -> bool:
    """Whether no polygon of a file reaches beyond 1: then coordinates are fractions of the image's sides."""
    return any(in_sides for _, in_sides in with_sides(annotations))


def with_sides(annotations: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], bool]]:
    """The annotations of a file in their order, and whether the coordinates of each are fractions of the sides.

    They are if no polygon of the file leaves the first pixel, in which nobody draws. It is read once; from the first
    polygon that may be of fractions, annotations are held back until one reaches beyond 1.
    """
    waiting: list[dict[str, Any]] = []
    rest = iter(annotations)
    for annotation in rest:
        numbers = list(_coordinates(annotation.get("segmentation")))
        if not all(value is not None and 0 <= value <= 1 for value in numbers):
            for one in itertools.chain(waiting, [annotation], rest):
                yield one, False
            return
        if numbers or waiting:
            waiting.append(annotation)
        else:
            yield annotation, False
    for one in waiting:
        yield one, True


def _coordinates(value: Any, depth: int = 4) -> Iterator[float | None]:
    """The numbers of lists within lists, None for what is no number."""
    for item in value if isinstance(value, list) else ():
        if isinstance(item, list) and depth:
            yield from _coordinates(item, depth - 1)
        else:
            yield gate.number(item)


def read_masks(
    annotations: Sequence[dict[str, Any]], size: tuple[int, int], where: str, path: Path, *, in_sides: bool = False
) -> tuple[bytes, ...]:
    """The annotations' masks as compressed run lengths that fit the image; SohesError names the first that cannot be.

    size: the image's (height, width). in_sides: coordinates are fractions of its sides.
    """
    rles = [run_lengths(annotation, size, where, path, in_sides=in_sides) for annotation in annotations]
    return checked(rles, [annotation.get("id") for annotation in annotations], size, where, path)


def run_lengths(
    annotation: dict[str, Any], size: tuple[int, int], where: str, path: Path, *, in_sides: bool = False
) -> bytes:
    """As `gate.run_lengths`, for an annotation: SohesError names it if its mask cannot be read."""
    try:
        return gate.run_lengths(annotation.get("segmentation"), size, in_sides=in_sides)
    except ValueError as error:
        raise _unreadable(annotation.get("id"), where, path, error) from None


def checked(
    rles: Sequence[bytes], ids: Sequence[Any], size: tuple[int, int], where: str, path: Path
) -> tuple[bytes, ...]:
    """As `gate.checked`, for the masks of one image: SohesError names the annotation by its id."""
    try:
        return gate.checked(rles, size)
    except gate.Unsound as error:
        raise _unreadable(ids[error.place], where, path, error) from None


def _unreadable(annotation_id: Any, where: str, path: Path, error: ValueError) -> SohesError:
    name = named({"id": annotation_id})
    return SohesError(f"{path}: {name} of {where} has no mask that can be read: {error}: fix or remove it")


def is_crowd(annotation: dict[str, Any], where: str, path: Path) -> bool:
    """The annotation's `iscrowd`. SohesError if it is neither 0 nor 1."""
    try:
        return gate.flag(annotation.get("iscrowd"))
    except ValueError as error:
        raise SohesError(f"{path}: iscrowd of {named(annotation)} of {where}: {error}") from None
