"""Plots as SVG text: they scale in print and on a phone, and sit inside the report's one file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

_GREY = "#7a7f87"  # readable on white and on near-black: the report has both
PHASE_COLOURS = {"explore": "#8e9aaf", "instruct": "#3d7ea6", "correct": "#e07a3f", "untrained": "#c9ccd1"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sohes",  # the same bytes for the same figures
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _GREY,
    "axes.labelcolor": _GREY,
    "axes.edgecolor": _GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "legend.frameon": False,
}


def recall_by_size(rows: Mapping[str, Mapping[str, object]]) -> str:
    """Grouped bars of AR, AR_S, AR_M, AR_L, a colour a phase; what was not measured has none."""
    columns = ("AR", "AR_S", "AR_M", "AR_L")
    width = 0.8 / max(1, len(rows))

    def draw(axes: plt.Axes) -> None:
        for k, (phase, row) in enumerate(rows.items()):
            measured = {x: value for x, c in enumerate(columns) if isinstance(value := row.get(c), int | float)}
            places = [x + (k - (len(rows) - 1) / 2) * width for x in measured]
            bars = axes.bar(places, list(measured.values()), width * 0.92, label=phase, color=_colour(phase))
            axes.bar_label(bars, fmt="%.1f", fontsize=7, color=_GREY, padding=1)
        axes.set_xticks(range(len(columns)), columns)

    return _svg("recall by size", draw, y="average recall, %")


def recall_by_iou(curves: Mapping[str, Mapping[str, float | None]]) -> str:
    """Recall against the IoU that counts as found, a line a phase: `{phase: {"0.50": recall, ...}}`."""

    def draw(axes: plt.Axes) -> None:
        for phase, curve in curves.items():
            points = [(float(iou), value) for iou, value in curve.items() if value is not None]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=phase, color=_colour(phase))
        axes.set_ylim(bottom=0)

    return _svg("recall by overlap", draw, x="IoU threshold", y="recall, %")


def loss_curves(history: Sequence[Mapping[str, float]], *, title: str) -> str:
    """Every loss part of a training run against its step; `history` rows hold `step` and the parts."""

    def draw(axes: plt.Axes) -> None:
        steps = [row["step"] for row in history]
        for part in ("loss", "class", "mask", "dice", "ancestor"):
            if history and part in history[0]:
                axes.plot(steps, [row[part] for row in history], label=part, linewidth=1.2)
        axes.set_yscale("log")

    below: dict[str, Any] = {
        "ncols": 5,
        "loc": "upper center",
        "bbox_to_anchor": (0.5, -0.22),
    }  # the curves fill the plot
    return _svg(f"losses of {title}", draw, x="step", y="loss", **below)


def score_threshold(areas: Sequence[float], thresholds: Sequence[float]) -> str:
    """Phase 3's dynamic threshold against the area of a mask (paper equation 3)."""

    def draw(axes: plt.Axes) -> None:
        axes.plot(areas, thresholds, color=PHASE_COLOURS["correct"])
        axes.set_xscale("log")
        axes.set_ylim(0, 1)

    return _svg("the threshold of phase 3", draw, x="mask area / image area", y="score a teacher's mask needs")


def masks_per_threshold(thresholds: Sequence[float], counts: Sequence[float], *, chosen: Sequence[float]) -> str:
    """Regions an image against the merging threshold (paper figure 8); `chosen` thresholds are marked."""

    def draw(axes: plt.Axes) -> None:
        axes.plot(thresholds, counts, color=PHASE_COLOURS["instruct"], marker="o", markersize=3)
        for k, theta in enumerate(chosen):
            label = "used by this profile" if k == 0 else None
            axes.axvline(theta, color=PHASE_COLOURS["correct"], linewidth=0.8, linestyle="--", label=label)
        axes.set_ylim(bottom=0)

    return _svg("regions of phase 1 (the paper's figure 8)", draw, x="merging threshold", y="regions an image")


def ablation(title: str, bars: Sequence[tuple[str, float | None, float, float, float | None]]) -> bytes:
    """A PNG of an ablation's AR: (row, AR, the interval's reach below and above it, the paper's AR) a bar."""
    with plt.rc_context({**_STYLE, "text.color": "black", "axes.labelcolor": "black", "ytick.color": "black"}):
        figure, axes = plt.subplots(figsize=(7, 1.2 + 0.42 * len(bars)))
        for place, (_, ar, below, above, paper) in enumerate(bars):
            if ar is not None:
                axes.barh(place, ar, height=0.6, color=PHASE_COLOURS["instruct"], xerr=[[below], [above]], capsize=3)
            if paper is not None:
                axes.plot(paper, place, marker="D", color=PHASE_COLOURS["correct"])
        if any(paper is not None for *_, paper in bars):
            axes.plot([], [], marker="D", linestyle="", color=PHASE_COLOURS["correct"], label="the paper, on SA-1B")
            axes.legend(fontsize=8)
        axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("average recall, %; whiskers: 95 % interval of the difference from the baseline")
        axes.set_title(title, fontsize=10)
        figure.tight_layout()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        plt.close(figure)
        return buffer.getvalue()


def _colour(phase: str) -> str:
    return PHASE_COLOURS.get(phase, _GREY)


def _svg(title: str, draw: Callable[[plt.Axes], None], *, x: str = "", y: str, **legend: Any) -> str:
    """One small plot with its words. draw: puts the figures on the axes. legend: of the labels, if there are any."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.0))
        draw(axes)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title, fontsize=10, color=_GREY)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, **legend)
        buffer = io.StringIO()
        figure.tight_layout()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
        return buffer.getvalue()[buffer.getvalue().index("<svg") :]
