"""Compare the phases on one dataset: every figure with its interval, and the gain of each phase over the one before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from sohes.evaluate.intervals import interval, paired_interval
from sohes.evaluate.recall import Scores
from sohes.evaluate.tables import cell, markdown

# The figures of `Scores` in the table, with their headings.
SHOWN = {"AR": "AR", "AR_S": "S", "AR_M": "M", "AR_L": "L", "AR_100": "AR@100", "ancestor_f1": "ancestor F1"}


def comparison_markdown(scores: Mapping[str, Scores]) -> str:
    """A row per run, in percent with 95 % intervals in brackets, then the gain of each run over the last, in points.

    Differences are bold if their interval excludes zero. Figures that no run has are left out.
    """
    figures = [name for name in SHOWN if any(getattr(run, name) is not None for run in scores.values())]
    body = [[title, *_measured(run, figures), cell("", run.masks_per_image)] for title, run in scores.items()]
    body += _gains(list(scores.items()), figures)
    return markdown(["", *(SHOWN[name] for name in figures), "masks/img"], body)


def _measured(run: Scores, figures: Sequence[str]) -> Iterator[str]:
    for name in figures:
        ends = interval(run.ratios[name])
        value = cell(name, getattr(run, name))
        yield value if ends is None else f"{value} ({ends[0]:.1f} to {ends[1]:.1f})"


def _gains(runs: Sequence[tuple[str, Scores]], figures: Sequence[str]) -> Iterator[list[str]]:
    for (earlier, before), (later, after) in itertools.pairwise(runs):
        row = [f"{later} minus {earlier}"]
        for name in figures:
            found = paired_interval(after.ratios[name], before.ratios[name])
            row.append("-" if found is None else _signed(*found))
        yield [*row, f"{after.masks_per_image - before.masks_per_image:+.1f}"]


def _signed(gain: float, low: float, high: float) -> str:
    value = f"{gain:+.1f}" if low <= 0 <= high else f"**{gain:+.1f}**"
    return f"{value} ({low:+.1f} to {high:+.1f})"
