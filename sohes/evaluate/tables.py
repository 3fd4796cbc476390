"""Tables: one row a phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sohes.evaluate import published

COLUMNS = ("AR", "AR_S", "AR_M", "AR_L", "AP", "masks_per_image", "seconds_per_image")
HEADINGS = {"masks_per_image": "masks/img", "seconds_per_image": "s/img"}


def published_rows() -> list[list[str]]:
    """`published.PUBLISHED_AR` as strings, its source in the last column."""
    return [
        [method, *(cell("AR", value) for value in figures), published.source_of(method)]
        for method, figures in published.PUBLISHED_AR.items()
    ]


def paper_phase_rows() -> list[list[str]]:
    """`published.PAPER_PHASES` as strings in the order of COLUMNS, its source in the last column."""
    return [
        [phase, *map(cell, COLUMNS, figures), source] for phase, (figures, source) in published.PAPER_PHASES.items()
    ]


def cost_rows(costs: Mapping[str, Mapping[str, float | None]]) -> list[list[str]]:
    """Stage, time on the clock, processor time, memory, GPU memory; a total of the times at the end."""
    rows = [
        [stage, duration(cost["seconds"]), duration(cost["processor_seconds"])]
        + ["-" if (gib := cost[kind]) is None else f"{gib:.1f} GiB" for kind in ("memory_gib", "gpu_memory_gib")]
        for stage, cost in costs.items()
    ]
    total = [duration(sum(c[kind] or 0 for c in costs.values())) for kind in ("seconds", "processor_seconds")]
    return [*rows, ["all", *total, "", ""]] if rows else []


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: `12.3 s`, `4 min 05 s`, `71 h 20 min`."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def heading(column: str) -> str:
    return HEADINGS.get(column, column)


def cell(column: str, value: object) -> str:
    """A figure as the tables show it; a dash where there is none."""
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return str(value)
    return f"{value:.3f}" if column == "seconds_per_image" else f"{value:.1f}"


def phase_cells(rows: Mapping[str, Mapping[str, object]]) -> list[list[str]]:
    """The rows of `metrics/evaluate.json` as strings: phase first, then COLUMNS."""
    return [[phase, *(cell(column, row.get(column)) for column in COLUMNS)] for phase, row in rows.items()]


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A GitHub table, figures right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"


def by_phase(rows: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """The rows' figures by `phase/column`, without what was not measured."""
    return {
        f"{phase}/{name}": value
        for phase, row in rows.items()
        for name, value in row.items()
        if isinstance(value, float | int)
    }


def phase_markdown(rows: Mapping[str, Mapping[str, object]]) -> str:
    return markdown(["phase", *map(heading, COLUMNS)], phase_cells(rows))
