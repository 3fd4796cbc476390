"""Options that several commands share, and the project that their defaults lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sohes.project import Project

HERE = Project(Path())  # the working folder
BACKBONE = HERE.model("backbone")


def complete_key(incomplete: str) -> list[str]:
    """Keys of params that begin so, for the shell."""
    from sohes.params.schema import described

    return [key for key in described() if key.startswith(incomplete)]


ParamsFile = Annotated[Path, typer.Option("--params", help="The file with every number.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=complete_key,
        help="In place of the file's value, as explore.refiner=none; repeatable.",
    ),
]
Upright = Annotated[bool, typer.Option("--exif/--no-exif", help="Turn photographs upright; benchmarks do not.")]
