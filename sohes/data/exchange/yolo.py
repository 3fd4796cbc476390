"""YOLO's segmentation labels: a text file an image, a line a mask.

    labels/cat.txt      0 x1 y1 x2 y2 ...       class and corners as fractions of the sides
    data.yaml           the names of the classes: one, `entity`

A line is one instance and has one outline, so the parts of a mask, and the holes in them, are joined by bridges
(`outlines`); as lines of their own, parts would become instances. The format has no place for parents, and training
takes no scores: masks are in their order, best first. A further number at the end of a line, as `save_conf=True` leaves
it, is read as the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sohes.data.benchmarks.layout import named_below
from sohes.data.exchange.outlines import bridged, part_polygons
from sohes.data.exchange.places import Places, placed
from sohes.data.names import Names
from sohes.errors import SohesError
from sohes.masks.mask_json import Found
from sohes.project import read_text
from sohes.structures import ImageRecord
from sohes.work.files import write_file

SOURCE = "yolo"
LABELS = "labels"
_DATA = "path: .\ntrain: images  # put the photographs there, under the paths that the labels have\nval: images\n"


def places(folder: Path) -> Places:
    """Where `write` puts the file of each photograph."""
    return Places(folder / LABELS, ".txt")


def write(records: Iterable[ImageRecord], folder: Path) -> None:
    """An image without masks has an empty file; a mask without a pixel has no line."""
    for record, file in placed(records, places(folder)):
        sides = np.array([record.masks.width, record.masks.height])
        parts_of = list(part_polygons(record.masks))
        best_first = np.argsort(-record.masks.scores, kind="stable").tolist()
        lines = (bridged(parts_of[index]) / sides for index in best_first if parts_of[index])
        write_file(file, "".join(f"0 {' '.join(f'{v:.7g}' for v in corners.ravel())}\n" for corners in lines))
    write_file(folder / "data.yaml", f"{_DATA}names:\n  0: entity\n")


def files(folder: Path) -> list[Path]:
    """The label files of a folder, or of `labels` in it; LabelImg's list of classes is none."""
    return [file for file in named_below(_home(folder), "*.txt") if file.name != "classes.txt"]


def is_label(file: Path) -> bool:
    """Whether the first line is a class and the numbers of a box or more corners; of an empty file, nobody can say."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        words = next(lines, "").split()
    try:
        return len([float(word) for word in words]) >= 5
    except ValueError:
        return False


def _home(folder: Path) -> Path:
    return folder / LABELS if (folder / LABELS).is_dir() else folder


def read(folder: Path, images: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
    """The records of the folder's files, without ids, each under the name of the image that has the same path.

    images: those whose sizes are known. SohesError for a file of no such image, or of several, and for a line that is
    no polygon.
    """
    sizes = {r.file_name: (r.masks.height, r.masks.width) for r in images if PurePosixPath(r.file_name).name}
    by_path: dict[str, list[str]] = {}
    for name in sizes:
        by_path.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    names = Names(by_path)
    for file in files(folder):
        path = file.relative_to(_home(folder)).with_suffix("").as_posix()
        candidates = by_path.get(path) or by_path.get(names.find(path) or "", [])
        if len(candidates) != 1:
            raise SohesError(
                f"{file} is of no image whose size is known, and YOLO's labels do not hold it: score them on a "
                "benchmark that has one image of this name"
            )
        (name,) = candidates
        masks = Found(sizes[name], name, file)
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                masks.add([_annotation(line, number, sizes[name], file)])
        yield ImageRecord(-1, name, "", masks.masks(SOURCE))


def _annotation(line: str, number: int, size: tuple[int, int], file: Path) -> dict[str, Any]:
    try:
        values = np.array(line.split()[1:], np.float64)
    except ValueError:
        raise SohesError(f"{file}, line {number}: {line!r:.80} holds more than numbers: fix or remove it") from None
    if len(values) < 6:
        raise SohesError(f"{file}, line {number} has {len(values)} numbers, which are no polygon: fix or remove it")
    score = {"score": values[-1].item()} if len(values) % 2 else {}
    corners = values[: len(values) // 2 * 2].reshape(-1, 2) * size[::-1]
    return {"id": number, "segmentation": [corners.ravel().tolist()], **score}
