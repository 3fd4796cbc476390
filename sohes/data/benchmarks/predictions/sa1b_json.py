"""Predictions as a folder of JSON, one file per image: SA-1B's, from SAM, UnSAM, `sohes segment` and `sohes export`; or
LabelMe's.

A file of SA-1B's without a `file_name` is for the image that has the file's own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco
from sohes.data.benchmarks.layout import named_below
from sohes.data.exchange import labelme
from sohes.masks.mask_json import read_sa1b
from sohes.structures import ImageRecord

SOURCE = "sa1b_json"


def read(folder: Path) -> Iterator[ImageRecord]:
    """The records of the `*.json` in the folder and those below, in the order of their names.

    SohesError names a file of another kind.
    """
    return (_read(path, folder) for path in named_below(folder, "*.json"))


def _read(path: Path, home: Path) -> ImageRecord:
    content = coco.read_json(path)
    if labelme.is_labelme(content):
        return labelme.read(content, path, home)
    return read_sa1b(content, path, source=SOURCE)
