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

# AR@1000 in percent. SOHES and what stands above it: SOHES, ICLR 2024, table 1. Below: the papers named.
BENCHMARKS = ("COCO", "LVIS", "ADE20K", "EntitySeg", "SA-1B", "PartImageNet", "PACO")
PUBLISHED_AR: dict[str, tuple[float | None, ...]] = {
    "SAM (supervised)": (49.6, 46.1, 45.8, 45.9, 60.8, 28.3, 18.1),
    "FreeSOLO": (11.6, 5.9, 7.3, 8.0, 2.2, 13.8, 2.4),
    "CutLER": (28.1, 20.2, 26.3, 23.1, 17.0, 28.7, 8.9),
    "HASSOD": (28.3, 22.5, 27.8, 26.2, 26.0, 32.6, 11.4),
    "SOHES": (30.5, 29.1, 31.1, 33.5, 33.3, 36.0, 17.1),
    "UnSAM, 2024": (42.0, 40.5, 37.5, 41.0, 44.5, 52.7, 29.7),
    "Diffuse2Seg + CutLER, 2026": (42.2, 40.0, 40.5, 43.2, 47.8, None, 29.8),
    "MoSA, 2026": (43.5, 42.2, 38.4, 41.1, 48.2, 52.7, 28.4),
}


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
