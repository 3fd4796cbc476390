"""Somebody's own annotations: a file of COCO or COCO panoptic JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from sohes.data.benchmarks import coco, coco_panoptic
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks
from sohes.structures import ImageRecord


def read(
    path: Path, image_ids: Collection[int] | None = None, *, remarks: Remarks | None = None
) -> Iterator[ImageRecord]:
    """The ground truth of the images, or of `image_ids` only, as `coco.read_content` gives it."""
    content = coco.load(path)
    reader = coco_panoptic if coco_panoptic.is_panoptic(content) else coco
    return reader.read_content(content, path, image_ids, remarks=remarks)


def check(path: Path, held_out: Collection[int] | None = None) -> tuple[str, ...]:
    """Read every mask; sentences on what was left out and why.

    held_out: the ids of the images that are to be scored. SohesError for a mask that cannot be read, and if nothing
    can be used, in the whole file or in these images.
    """
    remarks = Remarks()
    entities = {record.image_id: record.masks.entities for record in read(path, remarks=remarks)}
    if not any(entities.values()):
        raise SohesError(f"{path} has no annotation: name a file that has some, or none to score nothing")
    if held_out and not any(entities[image_id] for image_id in held_out):
        raise SohesError(
            f"none of the {len(held_out)} held-out images has a mask in {path}, so nothing could be scored: raise "
            "pull.folder.eval_fraction"
        )
    return remarks.sentences(path)
