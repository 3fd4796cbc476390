"""Held-out images for people to look at, with what recall counts of each phase, or with all its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sohes.data.imaging import fit
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.evaluate import pictures
from sohes.evaluate.figures import Row
from sohes.evaluate.matching import found_masks
from sohes.pipeline import PHASES
from sohes.project import Project
from sohes.structures import MaskSet

LONGEST = 640  # pixels of a panel's side


@dataclass(frozen=True)
class Example:
    """A held-out image, (H, W, 3) uint8, its true masks, if there are any, and those of each phase.

    recall: of the last phase, in percent; None where nothing is annotated. rank: best, typical or worst by it.
    """

    name: str
    image: np.ndarray
    truth: MaskSet | None
    found: Mapping[str, MaskSet]
    recall: float | None
    rank: str


class Panel(NamedTuple):
    """A picture with its caption."""

    caption: str
    image: np.ndarray


def examples(project: Project, details: Mapping[str, Row], count: int) -> list[Example]:
    """Good, typical and worst images by the last phase's recall; the first ones where nothing is annotated."""
    store = ImageStore(project.held_out)
    truth = LabelStore(project.truth) if project.truth.exists() else None
    phases = {phase: LabelStore(project.predictions(phase)) for phase in PHASES}
    recalls = {int(k): v for k, v in details[PHASES[-1]].get("per_image", {}).items() if v is not None}
    chosen, ranks = store.image_ids[:count].tolist(), {}
    if recalls:
        ranked = sorted(recalls, key=lambda i: (-recalls[i], i))
        places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
        chosen = [ranked[k] for k in places]
        ranks = {chosen[0]: "best", chosen[-1]: "worst"} if len(chosen) > 1 else {}
    return [
        Example(
            name=store.entry(i).file_name,
            image=store.read(i),
            truth=truth.record(i).masks if truth else None,
            found={phase: labels.record(i).masks for phase, labels in phases.items()},
            recall=recalls.get(i),
            rank=ranks.get(i, "typical"),
        )
        for i in chosen
    ]


def given(example: Example) -> list[Panel]:
    """The photograph, and its true masks if there are any."""
    panels = [Panel("photograph", fit(example.image, LONGEST))]
    if example.truth is not None:
        panels.append(_panel(f"ground truth: {_masks(len(example.truth))}", example.image, example.truth))
    return panels


def matched(example: Example, *, max_masks: int) -> list[Panel]:
    """What recall counts of each phase, in the colours of the true masks; empty without a ground truth."""
    if example.truth is None:
        return []
    panels = []
    for phase, found in example.found.items():
        shown, hits, of = found_masks(example.truth, found, max_masks=max_masks)
        panels.append(_panel(f"{phase}: {hits} of {of} found", example.image, shown))
    return panels


def strongest(example: Example) -> list[Panel]:
    """The most confident masks of each phase, right or wrong."""
    panels = []
    for phase, found in example.found.items():
        shown = pictures.strongest(found)
        words = _masks(len(found)) if len(shown) == len(found) else f"{len(shown)} strongest of {len(found)}"
        panels.append(_panel(f"{phase}: {words}", example.image, shown))
    return panels


def _masks(count: int) -> str:
    return f"{count} {'mask' if count == 1 else 'masks'}"


def _panel(caption: str, image_HW3: np.ndarray, shown: MaskSet) -> Panel:
    return Panel(caption, pictures.overlay(*pictures.reduced(image_HW3, shown, longest=LONGEST)))
