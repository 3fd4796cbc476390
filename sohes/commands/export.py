"""`sohes export`: labels and predictions as other people's tools read them, and theirs as ours."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import HERE
from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange.formats import FORMATS, FormatName, check_names, check_out
from sohes.structures import ImageRecord


def export(
    out: Annotated[Path, typer.Option(help="A file for parquet, coco and label-studio, else a folder.")],
    labels: Annotated[Path, typer.Argument(help="Labels or predictions, in any of the formats.")] = HERE.pseudo_labels,
    format: Annotated[FormatName, typer.Option(help="How it is written.")] = "coco",
) -> None:
    """Convert labels for other tools, or back.

    CVAT reads coco. YOLO's labels cannot be converted, only scored: they hold no image sizes.

    Example: sohes export predictions/correct --out correct.json
    """
    check_out(format, out)
    check_names(format, out, (record.file_name for record in read_records(labels)))  # before anything is written
    FORMATS[format].write(_numbered(labels), out)
    print(f"wrote {out}")


def _numbered(labels: Path) -> Iterator[ImageRecord]:
    """The records; an image without an id gets one above all that there are, for which the labels are read twice."""
    numbers: Iterator[int] | None = None
    for record in read_records(labels):
        if record.image_id < 0:
            if numbers is None:
                numbers = itertools.count(1 + max(0, max(other.image_id for other in read_records(labels))))
            record = dataclasses.replace(record, image_id=next(numbers))
        yield record
