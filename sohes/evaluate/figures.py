"""The phases' figures on disk: written by the stage `evaluate`, read by whatever shows them.

`metrics/evaluate.json` has a row a phase; `metrics/evaluate_details.json` has all that was measured, image by image,
and `untrained` beside the phases; `metrics/recall.json` is what DVC shows: few figures, so that a terminal holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sohes.errors import SohesError
from sohes.pipeline import PHASES
from sohes.project import Project, read_json
from sohes.work.files import write_json

UNTRAINED = "untrained"  # the network before phase 2: the baseline for training
Row = dict[str, Any]  # figures by name, None where nothing is annotated


def write_figures(project: Project, rows: Mapping[str, Row], details: Mapping[str, Row]) -> None:
    """Write all three files. rows, details: by phase; details may have more."""
    write_json(project.metrics("evaluate"), rows)
    write_json(project.metrics("evaluate_details"), details)
    metrics = {phase: _headline(row) for phase, row in rows.items()}
    bars = [{"phase": phase, "AR": row["AR"]} for phase, row in rows.items()]
    write_json(project.metrics("recall"), {**metrics, "bars": bars})  # DVC takes metrics by name, plots from a list


def read_rows(project: Project) -> dict[str, Row]:
    """The rows by phase, in the phases' order. SohesError if they are missing, damaged or of an older version."""
    return _read(project, "evaluate")


def read_details(project: Project) -> dict[str, Row]:
    """All that was measured, by phase. SohesError as for `read_rows`."""
    return _read(project, "evaluate_details")


def _headline(row: Row) -> Row:
    return {"masks": row["masks_per_image"]} if row["AR"] is None else {"AR": row["AR"]}


def _read(project: Project, name: str) -> dict[str, Row]:
    path = project.metrics(name)
    if not path.exists():
        raise SohesError(f"no scores at {path}: run the pipeline first, with `make demo` or `dvc repro`")
    again = "run `sohes evaluate` again"
    found = read_json(path, again)
    if not all(isinstance(row, dict) for row in found.values()):
        raise SohesError(f"{path} is damaged (a phase has no figures): {again}")
    return {phase: found[phase] for phase in (*PHASES, *sorted(found.keys() - set(PHASES))) if phase in found}
