"""Figures that others have published, with where they stand: to be shown beside measured ones, marked as published.

They lie beside this module, in published.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sohes.project import read_mapping

_FIGURES = read_mapping(Path(__file__).with_suffix(".yaml"))
_SYSTEMS, _LATER = _FIGURES["systems"], _FIGURES["later"]  # by benchmark: all figures, or AR alone
MAX_MASKS = 1000  # an image, of every published AR
SOHES_PAPER: str = _FIGURES["paper"]
BENCHMARKS: dict[str, str] = {name: facts["title"] for name, facts in _FIGURES["benchmarks"].items()}

# AR of every system, in the order of BENCHMARKS.
PUBLISHED_AR: dict[str, tuple[float | None, ...]] = {
    **{method: tuple(rows[name][-1] for name in BENCHMARKS) for method, rows in _SYSTEMS.items()},
    **{method: tuple(map(ar.get, BENCHMARKS)) for method, ar in _LATER.items()},
}

# The paper's own phases on SA-1B: AR, AR_S, AR_M, AR_L, AP, masks per image, seconds per image; and the source.
PAPER_PHASES: dict[str, tuple[tuple[float | None, ...], str]] = {
    phase: (tuple(row["figures"]), f"{SOHES_PAPER}, table {row['table']}") for phase, row in _FIGURES["phases"].items()
}

# Figure 6, by task and data set: what the backbone is worth before and after SOHES's training.
PAPER_DOWNSTREAM: dict[tuple[str, str], tuple[float, float]] = {
    (task, data): tuple(pair) for task, sets in _FIGURES["downstream"].items() for data, pair in sets.items()
}


@dataclass(frozen=True)
class Published:
    """One system's figures on one benchmark; None where they are not given."""

    method: str
    source: str
    AP: float | None
    AR_S: float | None
    AR_M: float | None
    AR_L: float | None
    AR: float | None


def source_of(method: str) -> str:
    """Where a row of PUBLISHED_AR stands."""
    return "its own paper" if method in _LATER else f"{SOHES_PAPER}, table 1"


def published_on(benchmark: str) -> list[Published]:
    """The published rows of a benchmark, none where the papers have none."""
    if benchmark not in BENCHMARKS:
        return []
    table = f"{SOHES_PAPER}, table {_FIGURES['benchmarks'][benchmark]['table']}"
    rows = [Published(method, table, *figures[benchmark]) for method, figures in _SYSTEMS.items()]
    later = {method: ar[benchmark] for method, ar in _LATER.items() if benchmark in ar}
    return rows + [Published(method, source_of(method), None, None, None, None, ar) for method, ar in later.items()]
