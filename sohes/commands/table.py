"""`sohes table`: the phases side by side, and where to look further."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sohes.errors import SohesError
from sohes.evaluate.tables import COLUMNS, heading, phase_cells
from sohes.tracking import tracking_uri


def run(root: Path) -> None:
    """Print `metrics/evaluate.json` as a table, and the places of the report and of MLflow's records."""
    path = root / "metrics/evaluate.json"
    if not path.exists():
        raise SohesError(f"no scores at {path}: run the pipeline first, with `make demo` or `dvc repro`")
    rows = json.loads(path.read_text())
    table = Table(title=f"{rows[0]['images']} held-out images, AR@1000 and AP in percent")
    table.add_column("phase")
    for column in COLUMNS:
        table.add_column(heading(column), justify="right")
    for cells in phase_cells(rows):
        table.add_row(*cells)
    console = Console()
    console.print(table)
    for what, where in _places(root):
        console.print(f"{what:8} {where}", soft_wrap=True, highlight=False)


def _places(root: Path) -> list[tuple[str, str]]:
    places = [("scores", str(root / "metrics/evaluate.json"))]
    if (root / "reports/index.html").exists():
        places.append(("report", str(root / "reports/index.html")))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        places.append(("MLflow", tracking_uri(root)))
    elif (root / "mlflow.db").exists():
        places.append(("MLflow", f"{root / 'mlflow.db'} (see it with `make ui`)"))
    return places
