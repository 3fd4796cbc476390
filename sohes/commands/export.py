"""`sohes export`: labels and predictions as other people's tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sohes.commands.options import HERE
from sohes.data.store import labels


def export(
    out: Annotated[Path, typer.Option(help="A JSON file (coco) or a folder with one JSON per image (sa1b).")],
    folder: Annotated[Path, typer.Argument(help="Labels or predictions, a folder or file.")] = HERE.pseudo_labels,
    format: Annotated[Literal["coco", "sa1b"], typer.Option(help="Whose JSON.")] = "coco",
) -> None:
    """Convert labels to COCO's or SA-1B's JSON.

    Example: sohes export predictions/correct --out correct.json
    """
    write = {"coco": labels.export_coco, "sa1b": labels.export_sa1b}[format]
    write(folder, out)
    print(f"wrote {out}")
