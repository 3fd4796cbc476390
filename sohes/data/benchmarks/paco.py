"""PACO-LVIS, validation set: object parts as class-agnostic ground truth.

Protocol (paper section 4.3 and table 5): the part masks of the 2,410 images of `paco_lvis_v1_val.json`, each one
entity; the 20,945 masks are those annotations whose `obj_ann_id` names another one, their object. The objects
themselves are not asked for, so there is only one level. PACO merges parts of one name within an object, so a mask may
have several pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.structures import ImageRecord

NAME = "paco"
INFO = """Get paco_lvis_v1.zip as facebookresearch/paco on GitHub says, and COCO's 2017 images. DIR holds:
  annotations/paco_lvis_v1_val.json      (or paco_lvis_v1_val.json)
  train2017/*.jpg  val2017/*.jpg         (only to predict; scoring reads no image)"""
read_image = layout.photographs("images")


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth, in the file's order. SohesError if the annotations do not name their objects."""
    path = layout.find(root, "annotations/paco_lvis_v1_val.json", "paco_lvis_v1_val.json", name=NAME)
    content = coco.load(path)
    if any(not {"id", "obj_ann_id"} <= annotation.keys() for annotation in content["annotations"]):
        raise SohesError(f"{path} has annotations without id or obj_ann_id: it is not PACO's file, download it again")
    parts = [annotation for annotation in content["annotations"] if annotation["obj_ann_id"] != annotation["id"]]
    return coco.read_content({**content, "annotations": parts}, path, source=NAME)
