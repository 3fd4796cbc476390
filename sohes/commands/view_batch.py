"""`sohes view-batch`: a picture of what training sees, augmented images with their masks and parents.

The samples are those that `sohes instruct` or `correct` draws with the same params.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import typer

from sohes import masks
from sohes.commands.options import HERE, ParamsFile
from sohes.data.imaging import encode_png
from sohes.evaluate import pictures
from sohes.masks import forest
from sohes.params import load_params
from sohes.project import Project
from sohes.work.files import write_file

if TYPE_CHECKING:  # it imports torch
    from sohes.train.dataset import Sample


def view_batch(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = HERE.reports / "batch.png",
    phase: Annotated[Literal["instruct", "correct"], typer.Option(help="Whose augmentation.")] = "instruct",
    step: Annotated[int, typer.Option(min=0, help="Step of the training.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="How many of its batch, at most.")] = 6,
    params: ParamsFile = HERE.params,
) -> None:
    """A picture of what training sees.

    Augmented images with their masks and parents.

    Example: sohes view-batch --step 100 --out batch.png
    """
    from sohes.train.dataset import LabelDataset, open_dataset

    values = load_params(params)
    section = values.instruct if phase == "instruct" else values.correct
    dataset = open_dataset(
        LabelDataset,
        Project(Path.cwd()),
        section,
        image_size=values.model.image_size,
        normalisation=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # none: the picture shows plain colours
        seed=values.seed,
    )
    drawn = [dataset.sample_for(step, k) for k in range(min(samples, section.batch_size))]
    for sample in drawn:
        for reason in sample.skipped:
            print(f"passed over {reason}", file=sys.stderr)
    write_file(out, encode_png(sheet(drawn)))
    print(f"wrote {out}")


def sheet(samples: list[Sample], *, gap: int = 8) -> np.ndarray:
    """(rows, columns, 3) uint8: the image, all masks with lines from parts to their wholes, wholes, parts, subparts."""
    rows = []
    for sample in samples:
        shown = sample.shown
        found = masks.mask_set(shown.masks_NHW, parents=shown.parents_N)
        linked = pictures.with_parents(pictures.overlay(shown.image_HW3, found), found)
        levels = [pictures.overlay(shown.image_HW3, found, level=i) for i in range(len(pictures.LEVEL_NAMES))]
        captions = [f"image {sample.image_id}", f"all: {len(found)}"]
        depth = forest.levels(found.parents)
        captions += [f"{name}: {(depth == i).sum()}" for i, name in enumerate(pictures.LEVEL_NAMES)]
        panels = [shown.image_HW3, linked, *levels]
        rows.append(pictures.side_by_side([pictures.captioned(p, c) for p, c in zip(panels, captions, strict=True)]))
    between = np.full((gap, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, between)][:-1])
