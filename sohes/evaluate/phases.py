"""Predict the masks of each phase, and name what they depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sohes.data.store.labels import write_shard
from sohes.evaluate.figures import UNTRAINED
from sohes.explore.refine import weights_digest
from sohes.model.released import vit_of_start
from sohes.params import Params
from sohes.project import Project, require
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import digest_file
from sohes.work.identity import code_digest
from sohes.work.pool import report_images

if TYPE_CHECKING:
    from sohes.explore.local import OnTree

Predictor = Callable[[Iterable[np.ndarray]], Iterator[MaskSet]]
Predicted = tuple[list[ImageRecord], float]  # records of some images, and the seconds they took


def depends_on(phase: str, params: Params, root: Path) -> dict[str, object]:
    """Everything that a phase's shards of masks depend on, besides the images. SohesError if its model is missing."""
    section = params.explore if phase == "explore" else params.evaluate
    return {
        "code": code_digest("sohes.evaluate.phases"),
        "params": section.model_dump(mode="json"),
        "images_per_shard": params.evaluate.images_per_shard,
        "model": _model_digest(phase, params, root),
        "refiner": weights_digest(section.refiner),
    }


def _model_digest(phase: str, params: Params, root: Path) -> str:
    project = Project(root)
    if phase in ("instruct", "correct"):
        return digest_file(require(project.model(phase), "model", phase))
    backbone = require(project.model("backbone"), "backbone", "backbone")
    if phase == UNTRAINED:
        vit = vit_of_start(params.instruct, root) or backbone
        return f"{digest_file(vit)} {params.seed} {params.model.model_dump_json()}"
    return f"{digest_file(backbone)} {params.seed} "


def make_predictor(phase: str, params: Params, root: Path, on_tree: OnTree | None = None) -> Predictor:
    """The function from images to masks of a phase. on_tree: gets the merge trees of phase 1."""
    backbone = Project(root).model("backbone")
    if phase == "explore":
        from sohes.explore.label_image import label_image
        from sohes.explore.maps import make_extractor

        extract = make_extractor(params.explore, backbone)
        return lambda images: (label_image(image, extract, params.explore, on_tree) for image in images)

    import torch

    from sohes.backbone.precision import best_device
    from sohes.evaluate.predict import segment_images

    if phase == UNTRAINED:
        from sohes.model.build import Network, build_network
        from sohes.model.checkpoint import first_vit

        torch.manual_seed(params.seed)
        model: Network = build_network(first_vit(vit_of_start(params.instruct, root), backbone), params.model)
    else:
        from sohes.model.checkpoint import load_checkpoint

        model, _ = load_checkpoint(Project(root).model(phase))
    return partial(segment_images, model.to(best_device()), params=params.evaluate, source=phase)


def predict_images(
    named: Sequence[tuple[int, str, str]], images: Iterable[np.ndarray], predict: Predictor
) -> Predicted:
    """The records of images, in order. named: (id, file name, digest) of each image."""
    records, started = [], time.perf_counter()
    for (image_id, file_name, digest), found in zip(named, predict(images), strict=True):
        records.append(ImageRecord(image_id, file_name, digest, found))
        report_images()
    return records, time.perf_counter() - started


def write_predicted(path: Path, pieces: Sequence[Predicted]) -> dict[str, Any]:
    """Write the records of all pieces as one shard; returns its counts and times."""
    records = [record for found, _ in pieces for record in found]
    write_shard(path, records)
    masks = sum(len(record.masks) for record in records)
    return {"images": len(records), "masks": masks, "seconds": sum(seconds for _, seconds in pieces)}
