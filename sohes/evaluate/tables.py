"""Tables: one row a phase, and the published figures that they stand beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

COLUMNS = ("AR", "AR_S", "AR_M", "AR_L", "AP", "masks_per_image", "seconds_per_image")
HEADINGS = {
    "phase": "phase",
    "masks_per_image": "masks/img",
    "seconds_per_image": "s/img",
}
PHASES = ("explore", "instruct", "correct")

# AR@1000 in percent, and where each row was published.
BENCHMARKS = ("COCO", "LVIS", "ADE20K", "EntitySeg", "SA-1B", "PartImageNet", "PACO")
PUBLISHED_AR: dict[str, tuple[float | None, ...]] = {
    "SAM (supervised)": (49.6, 46.1, 45.8, 45.9, 60.8, 28.3, 18.1),
    "FreeSOLO": (11.6, 5.9, 7.3, 8.0, 2.2, 13.8, 2.4),
    "CutLER": (28.1, 20.2, 26.3, 23.1, 17.0, 28.7, 8.9),
    "HASSOD": (28.3, 22.5, 27.8, 26.2, 26.0, 32.6, 11.4),
    "SOHES": (30.5, 29.1, 31.1, 33.5, 33.3, 36.0, 17.1),
    "UnSAM": (42.0, 40.5, 37.5, 41.0, 44.5, 52.7, 29.7),
    "Diffuse2Seg + CutLER": (42.2, 40.0, 40.5, 43.2, 47.8, None, 29.8),
    "MoSA": (43.5, 42.2, 38.4, 41.1, 48.2, 52.7, 28.4),
}
LATER_WORK = {"UnSAM": "its paper, 2024", "Diffuse2Seg + CutLER": "its paper, 2026", "MoSA": "its paper, 2026"}
SOHES_PAPER = "SOHES, ICLR 2024"
# The paper's own phases on SA-1B: AR, AR_S, AR_M, AR_L, AP, masks per image, seconds per image; and the table.
PAPER_PHASES: dict[str, tuple[tuple[float | None, ...], str]] = {
    "explore": ((16.4, 6.0, 15.8, 22.6, 4.7, 101.0, 15.2), "table 2"),
    "instruct": ((32.6, 8.0, 33.7, 43.0, 12.8, None, None), "table 3"),
    "correct": ((33.3, 8.6, 35.2, 42.0, 12.9, None, None), "table 3"),
}


def published_rows() -> list[list[str]]:
    """PUBLISHED_AR as strings, its source in the last column."""
    return [
        [name, *(cell("AR", v) for v in figures), LATER_WORK.get(name, f"{SOHES_PAPER}, table 1")]
        for name, figures in PUBLISHED_AR.items()
    ]


def paper_phase_rows() -> list[list[str]]:
    """PAPER_PHASES as strings in the order of COLUMNS, its source in the last column."""
    return [
        [phase, *map(cell, COLUMNS, figures), f"{SOHES_PAPER}, {table}"]
        for phase, (figures, table) in PAPER_PHASES.items()
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


def phase_cells(rows: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """The rows of `metrics/evaluate.json` as strings: phase first, then COLUMNS."""
    return [[str(row["phase"]), *(cell(column, row.get(column)) for column in COLUMNS)] for row in rows]


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A GitHub table, figures right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]) + "\n"


def phase_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    return markdown(["phase", *map(heading, COLUMNS)], phase_cells(rows))
