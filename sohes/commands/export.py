"""`sohes export`: labels and predictions as other people's tools read them, and theirs as ours."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import HERE
from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange.formats import FORMATS, FormatName, check_out
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
    FORMATS[format].write(_numbered(read_records(labels)), out)
    print(f"wrote {out}")


def _numbered(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """Ids from 1 for the images of formats that have none."""
    numbers = itertools.count(1)
    for record in records:
        yield record if record.image_id >= 0 else dataclasses.replace(record, image_id=next(numbers))
