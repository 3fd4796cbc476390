"""`sohes view-batch`: a picture of what training sees, augmented images with their masks and parents."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sohes import masks
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.evaluate import pictures
from sohes.masks import forest
from sohes.params import Params
from sohes.stages.training import require
from sohes.train.dataset import LabelDataset, Sample
from sohes.work.files import atomic_path


def run(params: Params, root: Path, *, out: Path, phase: str = "instruct", step: int = 0, samples: int = 6) -> None:
    """Write the first samples of the batch of `step` as one PNG, a row each: the image, its forest, and its levels.

    They are the very ones that `sohes <phase>` draws with these params. SohesError without images or labels.
    """
    section = params.instruct if phase == "instruct" else params.correct
    images = require(root / "data/images/manifest.parquet", "images", "pull").parent
    labels = require(root / "data/pseudo_labels", "pseudo-labels", "explore")
    dataset = LabelDataset(
        ImageStore(images),
        LabelStore(labels),
        image_size=params.model.image_size,
        max_targets=section.max_targets,
        augment=section.augment,
        normalisation=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # the picture shows the colours before it
        batch_size=section.batch_size,
        seed=params.seed,
    )
    drawn = [dataset.sample_for(step, k) for k in range(min(samples, section.batch_size))]
    for sample in drawn:
        for reason in sample.skipped:
            print(f"passed over {reason}", file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as path:
        path.write_bytes(pictures.encode_png(sheet(drawn)))


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
