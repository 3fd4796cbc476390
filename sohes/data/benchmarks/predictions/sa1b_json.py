"""Predictions as a folder of SA-1B JSON, one file per image: from SAM, UnSAM, `sohes segment` and `sohes export`.

A file without a `file_name` is for the image that has the file's own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco
from sohes.masks.mask_json import read_sa1b
from sohes.structures import ImageRecord

SOURCE = "sa1b_json"


def read(folder: Path) -> Iterator[ImageRecord]:
    """The records of the folder's `*.json`, in the order of their names. SohesError names a file of another kind."""
    return (read_sa1b(coco.read_json(path), path, source=SOURCE) for path in sorted(folder.glob("*.json")))
