"""Label shards and benchmarks as detectron2 data sets, for its own trainers and viewers.

    from sohes.model.detectron2_data import register
    register("sohes_train", project.images, project.pseudo_labels)  # of a sohes.project.Project

`record_of` brings its predictions back to our evaluator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sohes import masks
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError
from sohes.masks import forest, gate
from sohes.model.detectron2_heads import require_detectron2
from sohes.structures import CROWD, ImageRecord
from sohes.work.files import atomic_path

XYWH_ABS = 1  # detectron2.structures.BoxMode's numbers do not change: people's files hold them
CLASSES = ["entity"]
FILES = ".sohes/detectron2"


def register(name: str, images: Path | str, labels: Path | str, *, files: Path | str = FILES) -> None:
    """Make an image store and its label shards (`data/images` and `data/pseudo_labels`, or `data/eval` and
    `data/eval/labels`) the detectron2 data set `name`.

    detectron2 reads images from files: they are unpacked into `files`, each once, when the data set is first used.
    SohesError without detectron2, without images or labels, or if the name is taken.
    """
    require_detectron2()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name in DatasetCatalog.list():
        raise SohesError(f"detectron2 already has a data set {name}: choose another name")
    images, labels = Path(images), Path(labels)
    for what in (ImageStore(images), LabelStore(labels)):  # so that a missing one is reported here and not in a worker
        if not len(what):
            raise SohesError(f"there is nothing in {images} or {labels} to register as {name}")
    DatasetCatalog.register(name, lambda: list(dataset_dicts(images, labels, Path(files) / name)))
    MetadataCatalog.get(name).set(thing_classes=CLASSES, evaluator_type="sohes")


def dataset_dicts(images: Path, labels: Path, files: Path) -> Iterator[dict[str, Any]]:
    """detectron2's standard dictionaries, one per labelled image, without its package.

    Beyond its keys each annotation has `parent`, an index into the image's annotations or -1.
    """
    store, found = ImageStore(images), LabelStore(labels)
    for image_id in map(int, found.image_ids):
        yield as_dict(found.record(image_id), _unpacked(store, image_id, files))


def as_dict(record: ImageRecord, file: Path) -> dict[str, Any]:
    """One record in detectron2's form; masks are compressed run lengths, to be read with `mask_format: bitmask`."""
    boxes, rles = masks.boxes_xywh(record.masks).tolist(), masks.coco_rles(record.masks)
    annotations = [
        {
            "bbox": box,
            "bbox_mode": XYWH_ABS,
            "segmentation": rle,
            "category_id": 0,
            "iscrowd": int(source == CROWD),
            "parent": parent,
        }
        for box, rle, source, parent in zip(
            boxes, rles, record.masks.sources, record.masks.parents.tolist(), strict=True
        )
    ]
    return {
        "file_name": str(file),
        "image_id": record.image_id,
        "height": record.masks.height,
        "width": record.masks.width,
        "annotations": annotations,
    }


def _unpacked(store: ImageStore, image_id: int, folder: Path) -> Path:
    """The decoded photograph as a file: upright and checked, as the labels' frame is."""
    file = folder / f"{image_id}.png"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            Image.fromarray(store.read(image_id)).save(temporary, "PNG")
    return file


def record_of(entry: Mapping[str, Any], instances: Any, *, theta_cover: float) -> ImageRecord:
    """A detectron2 prediction (`Instances` with `pred_masks` at the image's size, and `scores`) for our evaluator.

    entry: its image's dictionary, as `dataset_dicts` made it. The forest is by coverage (paper 3.1, step 4).
    """
    dense_NHW = np.asarray(instances.pred_masks.cpu(), bool)
    scores_N = np.asarray(instances.scores.cpu(), np.float32)
    size = gate.size_of(entry)
    if dense_NHW.shape != (len(scores_N), *size) or not np.isfinite(scores_N).all():
        raise SohesError(
            f"the predictions for {entry['file_name']} need masks of {size[1]} x {size[0]} pixels and finite scores "
            f"(got masks of shape {dense_NHW.shape}, {np.isfinite(scores_N).sum()} of {len(scores_N)} scores finite)"
        )
    seen = np.flatnonzero(dense_NHW.any((1, 2)))
    dense_NHW, scores_N = dense_NHW[seen], scores_N[seen]
    parents = forest.parents_by_coverage(masks.intersections(dense_NHW), theta_cover=theta_cover)
    found = masks.mask_set(dense_NHW, scores=scores_N, parents=parents, sources="detectron2")
    return ImageRecord(int(entry["image_id"]), Path(entry["file_name"]).name, "", found)
