"""How many samples a second the data set of phases 2 and 3 makes, from a store on disk, by workers."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from infra.gpu.lab import MASKS, Lab, Rows, blobs, pictures
from sohes.data.imaging import encode_jpeg
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, write_shard
from sohes.data.store.pack import pack_shard, shard_name, write_manifest
from sohes.masks import mask_set
from sohes.params import Params
from sohes.structures import ImageRecord
from sohes.train.dataset import Kind
from sohes.train.loading import load, positions

SIDE = 480  # pixels, the longer side of a photograph
PART = 8  # samples of a batch
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def run(lab: Lab) -> Rows:
    """A row a number of workers, the likely ones first; a batch of each worker before the clock starts."""
    params = lab.params("one-gpu")
    data = dataset(lab, params)
    for workers in (0, 2) if lab.toy else (8, 16, 1, 4):
        if lab.left() < (1 if lab.toy else 4):
            return
        yield {"what": f"{workers} workers", "masks_per_image": MASKS, **_pace(lab, data, workers)}


def _pace(lab: Lab, data, workers: int) -> dict[str, float]:
    steps = 10**6
    parts = positions(start=0, steps=steps, batch_size=PART, accumulate=1, rank=0, world_size=1)
    begun = time.monotonic()
    with closing(load(data, parts, workers=workers)) as batches:
        for _ in range(2 * max(1, workers)):  # starting them, and what lay ready
            next(batches)
        start, count = time.monotonic(), 0
        seconds = min(4, max(0.5, lab.left() / 3))
        while count < 2 or time.monotonic() - start < seconds:
            next(batches)
            count += 1
        spent = time.monotonic() - start
    return {
        "samples_per_second": round(PART * count / spent, 2),
        "start_seconds": round(start - begun, 2),
        "cores": os.cpu_count() or 0,
    }


def dataset(lab: Lab, params: Params, kind: type[Kind] | None = None) -> Kind:
    """A store of photographs (or scenes) with MASKS blobs each; it is written once."""
    from sohes.train.dataset import LabelDataset

    folder = lab.folder / "store"
    if not (folder / "labels").exists():
        _write(folder, pictures(lab, 4 if lab.toy else 32, 96 if lab.toy else SIDE))
    return (kind or LabelDataset)(
        ImageStore(folder),
        LabelStore(folder / "labels"),
        image_size=params.model.image_size,
        max_targets=params.instruct.max_targets,
        augment=params.instruct.augment,
        normalisation=IMAGENET,
        batch_size=PART,
        seed=0,
        tiles=params.correct.tiles,
        keep_labels=params.correct.keep_labels,
    )


def _write(folder: Path, images: list[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = [(i, f"{i}.jpg", encode_jpeg(image)) for i, image in enumerate(images, 1)]
    packed = pack_shard(files, folder / shard_name(0), max_megapixels=100, apply_exif=False)
    write_manifest(folder, packed.entries, packed.rejected)
    records = []
    for i, image in enumerate(images, 1):
        height, width = image.shape[:2]
        found, parents = blobs(max(height, width), seed=i % 4)
        labels = mask_set(found[:, :height, :width], parents=parents, sources="check")
        records.append(ImageRecord(i, f"{i}.jpg", "", labels))
    write_shard(folder / "labels/shard-00000.parquet", records)
