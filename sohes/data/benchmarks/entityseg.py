"""EntitySeg (Qi et al., 2023), validation set at low resolution, as class-agnostic ground truth.

Protocol (paper section 4 and table 4): `entityseg_val_lr.json`, whose masks fit the reduced images. Every annotated
segment, thing or stuff, is one entity, and together they cover nearly the whole image. Predictions must be in the frame
of the low-resolution images; those of the large ones have another size and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco, layout
from sohes.structures import ImageRecord

NAME = "entityseg"
INFO = """Get the annotations from release v1.0 of adobe-research/EntitySeg-Dataset on GitHub, and the low-resolution
images from the source that its README names. DIR holds:
  entityseg_val_lr.json                  (or annotations/entityseg_val_lr.json)
  images_lr/...                          (or images/..., or the folders themselves; only to predict)"""


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth, in the file's order."""
    path = layout.find(root, "entityseg_val_lr.json", "annotations/entityseg_val_lr.json", name=NAME)
    return coco.read_content(coco.load(path), path, source=NAME)


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored."""
    return layout.read_file(root, "images_lr", "images", name=file_name)
