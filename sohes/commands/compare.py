"""`sohes compare`: an ablation's rows against their baseline and the paper, as a table and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sohes.errors import SohesError
from sohes.evaluate import plots
from sohes.evaluate.recall import paired_bootstrap, per_image_of
from sohes.evaluate.tables import cell, heading, markdown
from sohes.project import Project
from sohes.tracking.ablations import RecordedRow, recorded_rows
from sohes.work.files import write_file

METRICS = ("AR", "AR_S", "AR_M", "AR_L", "AP", "relations_changed", "masks_per_image", "seconds_per_image")

Difference = tuple[float | None, float | None, float | None]  # in AR, and the ends of its interval


def compare(experiment: Annotated[str, typer.Argument(help="A table that `sohes ablate` has recorded.")]) -> None:
    """Print and plot an ablation beside the paper's figures.

    Writes reports/ablations/*.csv, .md and .png.

    Example: sohes compare table-6a
    """
    text, written = run(experiment, Path.cwd())
    print(text)
    for path in written:
        print(f"wrote {path}")


def run(name: str, root: Path) -> tuple[str, list[Path]]:
    """The table as Markdown, and the files `reports/ablations/<name>.csv`, `.md` and `.png` that were written.

    Differences in AR from the baseline come with a 95 % interval over images. SohesError if nothing was recorded.
    """
    title, rows = recorded_rows(name, root)
    baseline = next((row for row in rows if row.baseline), None)
    if baseline is None:
        raise SohesError(f"the baseline of {name} is not recorded: run `sohes ablate {name}`")
    differences = [difference(row, baseline) for row in rows]
    header, body = table(rows, baseline, differences)
    text = markdown(header, body)
    if human := [row.name for row in rows if row.label_free is False]:
        text += f"\nNot label-free, since human labels trained the refiner or the backbone: {', '.join(human)}.\n"
    if unknown := [row.name for row in rows if row.label_free is None]:
        text += f"\nUnknown whether label-free, since it is unknown what trained the backbone: {', '.join(unknown)}.\n"
    if others := [row.name for row in rows if row.base and baseline.base and row.base != baseline.base]:
        text += f"\nMade with other params than the baseline, beside those that the table sets: {', '.join(others)}.\n"
    folder = Project(root).reports / "ablations"
    written = [folder / f"{name}{suffix}" for suffix in (".csv", ".md", ".png")]
    contents = (_csv(header, body), f"# {title}\n\n{text}".encode(), plots.ablation(title, _bars(rows, differences)))
    for path, content in zip(written, contents, strict=True):
        write_file(path, content)
    return text, written


def table(
    rows: Sequence[RecordedRow], baseline: RecordedRow, differences: Sequence[Difference]
) -> tuple[list[str], list[list[str]]]:
    """Header and body: the row, what it sets, its figures, its distance from the baseline, the paper's figures."""
    params = list(dict.fromkeys(key for row in rows for key in row.params))
    metrics = [metric for metric in METRICS if any(metric in row.metrics for row in rows)]
    paper = [metric for metric in METRICS if any(metric in row.paper for row in rows)]
    header = [
        "row",
        *params,
        *map(heading, metrics),
        "AR - baseline",
        "95 % interval",
        *(f"paper {heading(m)}" for m in paper),
    ]
    body = []
    for row, (delta, low, high) in zip(rows, differences, strict=True):
        interval = "-" if low is None or row is baseline else f"{low:+.1f} to {high:+.1f}"
        gain = "-" if delta is None or row is baseline else f"{delta:+.1f}"
        figures = [cell(m, row.metrics.get(m)) for m in metrics]
        settings = [row.params.get(p, "") for p in params]
        body.append([row.name, *settings, *figures, gain, interval, *(cell(m, row.paper.get(m)) for m in paper)])
    return header, body


def difference(row: RecordedRow, baseline: RecordedRow) -> Difference:
    """AR minus the baseline's and the ends of its 95 % interval; None three times where nothing is annotated."""
    if "AR" not in row.metrics or "AR" not in baseline.metrics:
        return None, None, None
    return paired_bootstrap(per_image_of(row.details), per_image_of(baseline.details))


def _bars(
    rows: Sequence[RecordedRow], differences: Sequence[Difference]
) -> list[tuple[str, float | None, float, float, float | None]]:
    """(row, AR, the interval's ends about it, the paper's AR) for the plot."""
    bars = []
    for row, (delta, low, high) in zip(rows, differences, strict=True):
        ar = row.metrics.get("AR")
        reach = (0.0, 0.0) if delta is None or low is None or high is None else (delta - low, high - delta)
        bars.append((row.name, ar, *reach, row.paper.get("AR")))
    return bars


def _csv(header: list[str], body: list[list[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *body])
    return buffer.getvalue().encode()
