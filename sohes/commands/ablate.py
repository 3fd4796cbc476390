"""`sohes ablate`: the rows of an ablation table, computed by DVC and recorded as one MLflow experiment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from sohes.ablation import Table, folder_name, load_table, make_workspace
from sohes.commands.options import HERE, ParamsFile
from sohes.data.store.labels import iter_records
from sohes.errors import SohesError
from sohes.evaluate.relations import relations_changed
from sohes.explore.refine import what_it_lacks
from sohes.tracking.ablations import record_row

WORKSPACES = ".sohes/ablations"


def ablate(
    table: Annotated[str, typer.Argument(help="A file of params/ablations: table-2, table-3, table-6a, ...")],
    row: Annotated[str | None, typer.Option(help="Only this row.")] = None,
    params: ParamsFile = HERE.params,
) -> None:
    """Compute the rows of an ablation table into MLflow.

    What DVC has cached is not computed again.

    Example: sohes ablate table-6a && sohes compare table-6a
    """
    for line in run(table, params, Path.cwd(), row=row):
        print(line, flush=True)


def run(name: str, params: Path, root: Path, *, row: str | None = None) -> Iterator[str]:
    """Compute and record the rows of `params/ablations/<name>.yaml`, or one of them; yields a sentence for each.

    Rows whose refiner is not on this machine are left out, with a sentence that says so.
    SohesError if the table, a key or the row is unknown, or if a row's pipeline fails.
    """
    table = load_table(name, root)
    if row is not None and row not in table.rows:
        raise SohesError(f"table {name} has no row {row!r} (it has: {', '.join(table.rows)})")
    wanted = [row] if row else [table.baseline, *(r for r in table.rows if r != table.baseline)]
    for each in wanted:
        if reason := what_it_lacks(table.rows[each].set.get("explore.refiner", "none")):
            yield f"{each}: left out, {reason}"
        else:
            yield _one_row(name, table, each, params, root)


def _one_row(name: str, table: Table, row: str, params: Path, root: Path) -> str:
    folder, phase = _workspace(root, name, row), table.phase_of(row)
    values = make_workspace(root, folder, params, table.rows[row].set, phase)
    _reproduce(folder, row)
    rows = json.loads((folder / "metrics/evaluate.json").read_text())
    (scores,) = (scored for scored in rows if scored["phase"] == phase)
    metrics = {k: float(v) for k, v in scores.items() if isinstance(v, float | int)}
    predictions, against = (
        folder / "predictions" / phase,
        _workspace(root, name, table.baseline) / "predictions" / phase,
    )
    if any("relations_changed" in other.paper for other in table.rows.values()) and against.exists():
        metrics["relations_changed"] = relations_changed(iter_records(predictions), iter_records(against))
    new = record_row(name, table, row, values, metrics, folder / "metrics/evaluate_details.json", root)
    return f"{row}: AR {metrics['AR']:.1f}{'' if new else ' (recorded before)'}" if "AR" in metrics else f"{row}: done"


def _workspace(root: Path, table: str, row: str) -> Path:
    return root / WORKSPACES / table / folder_name(row)


def _reproduce(folder: Path, row: str) -> None:
    """`dvc repro` in the row's workspace; what is cached is not computed again."""
    # The row is recorded as a whole, under its table's experiment: its stages are not records of their own.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SOHES_TRACKING": "off"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "evaluate"], cwd=folder, env=environment, text=True, stdout=sys.stderr
    )
    if done.returncode != 0:
        raise SohesError(f"row {row!r} failed: see above; run the same command again to go on from where it stopped")
