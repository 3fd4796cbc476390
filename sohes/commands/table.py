"""`sohes table`: the phases side by side, and where to look further."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sohes.evaluate.figures import read_rows
from sohes.evaluate.tables import COLUMNS, heading, phase_cells
from sohes.project import Project
from sohes.tracking import tracking_uri


def table() -> None:
    """Print the phases' table, and where the pictures are.

    Example: sohes table
    """
    project = Project(Path.cwd())
    rows = read_rows(project)
    row = next(iter(rows.values()))
    recall = f"AR@{row['max_masks']}" if "max_masks" in row else "AR"  # older versions wrote no cap
    shown = Table(title=f"{row['images']} held-out images, {recall} and AP in percent")
    shown.add_column("phase")
    for column in COLUMNS:
        shown.add_column(heading(column), justify="right")
    for cells in phase_cells(rows):
        shown.add_row(*cells)
    console = Console(markup=False)  # brackets in paths are no markup
    console.print(shown)
    for what, where in {"scores": str(project.metrics("evaluate")), **_places(project)}.items():
        console.print(f"{what:8} {where}", soft_wrap=True, highlight=False)


def _places(project: Project) -> dict[str, str]:
    """The report and MLflow's records, where there are any."""
    places = {"report": str(project.report)} if project.report.exists() else {}
    if os.environ.get("MLFLOW_TRACKING_URI"):
        places["MLflow"] = tracking_uri(project.root)
    elif project.database.exists():
        places["MLflow"] = f"{project.database} (see it with `make ui`)"
    return places
