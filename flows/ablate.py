"""`sohes ablate`: the rows of an ablation table, computed by DVC and recorded as one MLflow experiment.

python -m flows.ablate TABLE [--row ROW] [--params FILE] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flows.command import exit_code, failure
from flows.graph import DVC, environment
from flows.workspace import folder_name, make_workspace
from sohes.data.store.labels import iter_records
from sohes.errors import SohesError
from sohes.evaluate.ablation import Table, load_table, table_file
from sohes.evaluate.figures import read_rows
from sohes.evaluate.relations import relations_changed
from sohes.explore.refine import what_it_lacks
from sohes.launch import LocalProfile, run_task
from sohes.params import load_params
from sohes.pipeline import SECTIONS, STAGES
from sohes.project import Project
from sohes.tracking.ablations import record_row
from sohes.work.origin import Origin, code_of

# A row is recorded as a whole, under its table's experiment: its stages are not records of their own.
HERE = LocalProfile(launcher="local", environment={"SOHES_TRACKING": "off"}, grace_seconds=20)


def run(name: str, params: Path, root: Path, *, row: str | None = None) -> Iterator[str]:
    """Compute and record the rows of `params/ablations/<name>.yaml`, or one of them; yields a sentence for each.

    Rows whose refiner is not on this machine are left out, with a sentence that says so.
    SohesError if the table, a key or the row is unknown, or if a row's pipeline fails.
    """
    table = load_table(name, root)
    if row is not None and row not in table.rows:
        raise SohesError(f"table {name} has no row {row!r} (it has: {', '.join(table.rows)})")
    origin = Origin(
        "ablate",
        load_params(params),
        params,
        sections=SECTIONS,
        load=load_params,
        code=code_of(*(f"sohes.stages.{stage}" for stage in STAGES)),
        inputs=[table_file(name, root)],
    )
    for each in [row] if row else table.order():
        if reason := what_it_lacks(table.rows[each].set.get("explore.refiner", "none")):
            yield f"{each}: left out, {reason}"
        else:
            yield _one_row(name, table, each, params, root, origin)


def _one_row(name: str, table: Table, row: str, params: Path, root: Path, origin: Origin) -> str:
    phase = table.phase_of(row)
    workspace, of_baseline = (_workspace(root, name, each) for each in (row, table.baseline))
    values = make_workspace(root, workspace.root, params, table.rows[row].set, phase)
    _reproduce(workspace.root, row)
    origin.check()  # all rows of a table have one origin
    metrics = {k: float(v) for k, v in read_rows(workspace)[phase].items() if isinstance(v, float | int)}
    predictions, against = workspace.predictions(phase), of_baseline.predictions(phase)
    if any("relations_changed" in other.paper for other in table.rows.values()) and against.exists():
        changed = relations_changed(iter_records(predictions), iter_records(against))
        metrics |= {} if changed is None else {"relations_changed": changed}
    new = record_row(name, table, row, values, metrics, workspace.metrics("evaluate_details"), root)
    return f"{row}: AR {metrics['AR']:.1f}{'' if new else ' (recorded before)'}" if "AR" in metrics else f"{row}: done"


def _workspace(root: Path, table: str, row: str) -> Project:
    return Project(Project(root).state("ablations") / table / folder_name(row))


def _reproduce(folder: Path, row: str) -> None:
    """`dvc repro` in the row's workspace; what is cached is not computed again."""
    outcome = run_task(
        [*DVC, "repro", "evaluate"], task="row", root=folder, profile=HERE, environment=environment(),
        on_line=partial(print, file=sys.stderr, flush=True),
    )  # fmt: skip
    if outcome.exit_code != 0:
        raise failure(f"row {row!r}", outcome)


def main(arguments: list[str] | None = None) -> int:
    """Compute the rows; 0 if every one is recorded, otherwise as every `sohes` command ends."""
    parser = argparse.ArgumentParser(prog="sohes ablate", description="Compute the rows of an ablation table.")
    parser.add_argument("table", help="a file of params/ablations, without .yaml")
    parser.add_argument("--row", help="this row alone")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="what the rows start from")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    def work() -> None:
        for line in run(options.table, root / options.params, root, row=options.row):
            print(line, flush=True)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
