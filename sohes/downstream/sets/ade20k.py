"""ADE20K's scene parsing challenge (2016): 150 classes, 20,210 training and 2,000 validation photographs.

In the PNGs 1 to 150 are the classes and 0 is void (paper figure 6: mean IoU on the validation set).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from sohes.data.benchmarks import layout
from sohes.data.benchmarks.catalogue import decode_photograph
from sohes.downstream.sets.examples import ClassSet, Example, example
from sohes.errors import SohesError

CLASSES = tuple(str(number) for number in range(1, 151))


def open_set(root: Path) -> ClassSet:
    """SohesError if a split is missing."""
    splits = []
    for split in ("training", "validation"):
        remedy = "unpack ADEChallengeData2016.zip and name the folder of that name"
        folder = layout.find(root, f"annotations/{split}", name="ADE20K's scene parsing challenge", remedy=remedy)
        splits.append(tuple((split, png.stem) for png in sorted(folder.glob("*.png"))))
    return ClassSet(CLASSES, train=splits[0], val=splits[1], read=partial(_read, root=Path(root)))


def _read(key: tuple[str, str], *, root: Path) -> Example:
    split, name = key
    path = root / "annotations" / split / f"{name}.png"
    numbers_HW = layout.read_png(path).astype(np.int16)
    if numbers_HW.ndim != 2 or numbers_HW.max() > len(CLASSES):
        raise SohesError(f"{path} is not a map of 150 classes: take annotations/ of the scene parsing challenge")
    photograph = layout.read_file(root, f"images/{split}", name=f"{name}.jpg")
    return example(decode_photograph(photograph, numbers_HW.shape), classes_HW=numbers_HW - 1)
