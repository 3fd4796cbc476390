"""Figures that others have published, with where they stand: to be shown beside measured ones, marked as published.

All in percent, AR for up to 1,000 masks an image, zero-shot. Nobody publishes which images were left out, nor the
release of the annotations, so a difference of a point may be the protocol's.
"""

from __future__ import annotations

from dataclasses import dataclass

SOHES_PAPER = "SOHES, ICLR 2024"
TABLE_4 = f"{SOHES_PAPER}, table 4"  # data sets of whole entities; table 1 has the same AR
TABLE_5 = f"{SOHES_PAPER}, table 5"  # data sets of parts

# The columns of the paper's table 1 by the names that `sohes score --benchmark` has for them.
BENCHMARKS = {
    "coco": "COCO",
    "lvis": "LVIS",
    "ade20k": "ADE20K",
    "entityseg": "EntitySeg",
    "sa1b": "SA-1B",
    "partimagenet": "PartImageNet",
    "paco": "PACO",
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


# AP, AR_S, AR_M, AR_L, AR of each system, in the order of BENCHMARKS.
_SOHES_PAPER: dict[str, tuple[tuple[float, float, float, float, float], ...]] = {
    "SAM (supervised)": (
        (6.1, 33.4, 59.6, 64.1, 49.6),
        (6.7, 31.1, 71.3, 74.6, 46.1),
        (7.8, 31.6, 59.2, 62.5, 45.8),
        (14.8, 11.0, 25.0, 55.6, 45.9),
        (38.9, 20.0, 59.9, 82.2, 60.8),
        (3.4, 25.4, 29.3, 28.5, 28.3),
        (1.0, 11.9, 34.6, 41.1, 18.1),
    ),
    "FreeSOLO": (
        (4.3, 0.5, 11.5, 31.2, 11.6),
        (1.9, 0.2, 9.2, 31.7, 5.9),
        (2.3, 0.5, 9.3, 27.1, 7.3),
        (3.0, 0.1, 1.2, 10.7, 8.0),
        (1.5, 0.0, 0.2, 6.9, 2.2),
        (3.3, 0.6, 7.7, 26.4, 13.8),
        (0.2, 0.1, 5.8, 21.3, 2.4),
    ),
    "CutLER": (
        (9.8, 13.1, 31.6, 49.3, 28.1),
        (3.6, 11.3, 31.1, 46.2, 20.2),
        (5.2, 15.3, 34.7, 44.5, 26.3),
        (7.7, 6.1, 15.3, 27.2, 23.1),
        (7.8, 4.9, 13.9, 28.5, 17.0),
        (5.3, 13.2, 26.5, 38.1, 28.7),
        (0.2, 5.0, 18.7, 25.1, 8.9),
    ),
    "HASSOD": (
        (6.0, 14.0, 34.1, 45.2, 28.3),
        (4.2, 12.7, 36.1, 47.8, 22.5),
        (7.0, 16.2, 36.7, 46.7, 27.8),
        (6.1, 7.6, 20.1, 30.2, 26.2),
        (13.8, 12.9, 22.8, 38.3, 26.0),
        (4.5, 19.0, 32.9, 38.7, 32.6),
        (0.4, 6.4, 24.2, 31.4, 11.4),
    ),
    "SOHES": (
        (2.1, 19.8, 31.0, 48.8, 30.5),
        (1.9, 19.8, 39.4, 59.2, 29.1),
        (2.6, 21.8, 37.2, 49.0, 31.1),
        (5.0, 9.1, 21.6, 39.6, 33.5),
        (12.9, 8.6, 35.2, 42.0, 33.3),
        (1.2, 30.3, 32.4, 42.3, 36.0),
        (0.4, 12.0, 29.0, 41.9, 17.1),
    ),
}
# AR alone, of the papers named.
_LATER: dict[str, tuple[float | None, ...]] = {
    "UnSAM, 2024": (42.0, 40.5, 37.5, 41.0, 44.5, 52.7, 29.7),
    "Diffuse2Seg + CutLER, 2026": (42.2, 40.0, 40.5, 43.2, 47.8, None, 29.8),
    "MoSA, 2026": (43.5, 42.2, 38.4, 41.1, 48.2, 52.7, 28.4),
}

# AR of every system, in the order of BENCHMARKS.
PUBLISHED_AR: dict[str, tuple[float | None, ...]] = {
    method: tuple(figures[-1] for figures in rows) for method, rows in _SOHES_PAPER.items()
} | _LATER


# The paper's own phases on SA-1B: AR, AR_S, AR_M, AR_L, AP, masks per image, seconds per image; and the source.
PAPER_PHASES: dict[str, tuple[tuple[float | None, ...], str]] = {
    "explore": ((16.4, 6.0, 15.8, 22.6, 4.7, 101.0, 15.2), f"{SOHES_PAPER}, table 2"),
    "instruct": ((32.6, 8.0, 33.7, 43.0, 12.8, None, None), f"{SOHES_PAPER}, table 3"),
    "correct": ((33.3, 8.6, 35.2, 42.0, 12.9, None, None), f"{SOHES_PAPER}, table 3"),
}


# Figure 6: what the backbone is worth in supervised tasks, before (pre-trained by DINO) and after SOHES's training.
PAPER_DOWNSTREAM: dict[tuple[str, str], tuple[float, float]] = {
    ("semantic", "ade20k"): (35.2, 39.6),  # mean IoU
    ("detection", "coco"): (22.7, 24.4),  # AP of boxes
}


def source_of(method: str) -> str:
    """Where a row of PUBLISHED_AR stands."""
    return "its own paper" if method in _LATER else f"{SOHES_PAPER}, table 1"


def published_on(benchmark: str) -> list[Published]:
    """The published rows of a benchmark, none where the papers have none."""
    if benchmark not in BENCHMARKS:
        return []
    place = list(BENCHMARKS).index(benchmark)
    table = TABLE_5 if benchmark in ("partimagenet", "paco") else TABLE_4
    rows = [Published(method, table, *figures[place]) for method, figures in _SOHES_PAPER.items()]
    later = [Published(m, source_of(m), None, None, None, None, ars[place]) for m, ars in _LATER.items()]
    return rows + [row for row in later if row.AR is not None]
