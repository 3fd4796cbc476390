"""Phase 1 for many images: their records, and the images that could not be labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.store.labels import write_shard
from sohes.data.store.rejected import Rejected
from sohes.errors import is_the_machines
from sohes.explore.label_image import label_image
from sohes.explore.local import Extract
from sohes.explore.refine import make_refiner
from sohes.params import ExploreParams
from sohes.structures import ImageRecord
from sohes.work.pool import report_images

Labelled = tuple[list[ImageRecord], list[Rejected]]


def label_images(
    images: Iterable[tuple[int, str, Callable[[], tuple[str, np.ndarray]]]], extract: Extract, params: ExploreParams
) -> Labelled:
    """The records of images, and those that could not be read or labelled, with the reason.

    images: id, file name, and a function that returns the digest and the (H, W, 3) uint8 pixels.
    """
    make_refiner(params.refiner, patch=1)  # a network that cannot be loaded is no image's fault
    records: list[ImageRecord] = []
    rejected: list[Rejected] = []
    for image_id, file_name, read in images:
        try:
            digest, image = read()
            found = label_image(image, extract, params)
        except Exception as error:  # one odd image must not end a run over millions; it is named in rejected.jsonl
            if is_the_machines(error):
                raise
            rejected.append(Rejected(file_name, str(error) or type(error).__name__))
        else:
            records.append(ImageRecord(image_id, file_name, digest, found))
        report_images()
    return records, rejected


def write_labelled(path: Path, pieces: Sequence[Labelled]) -> dict[str, Any]:
    """Write the records of all pieces as one shard; returns its counts and its rejected images."""
    records = [record for found, _ in pieces for record in found]
    write_shard(path, records)
    return {
        "images": len(records),
        "masks": Counter(source for record in records for source in record.masks.sources),
        "rejected": [asdict(image) for _, rejected in pieces for image in rejected],
    }
