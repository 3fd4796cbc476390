"""Tables: one row a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS = ("AR", "AR_S", "AR_M", "AR_L", "AP", "masks_per_image", "seconds_per_image")
HEADINGS = {
    "phase": "phase",
    "masks_per_image": "masks/img",
    "seconds_per_image": "s/img",
}
PHASES = ("explore", "instruct", "correct")


def heading(column: str) -> str:
    return HEADINGS.get(column, column)


def cell(column: str, value: object) -> str:
    """A figure as the tables show it; a dash where there is none."""
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.3f}" if column == "seconds_per_image" else f"{value:.1f}"


def phase_cells(rows: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """The rows of `metrics/evaluate.json` as strings: phase first, then COLUMNS."""
    return [[str(row["phase"]), *(cell(column, row.get(column)) for column in COLUMNS)] for row in rows]


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A GitHub table, figures right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"


def phase_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    return markdown(["phase", *map(heading, COLUMNS)], phase_cells(rows))
