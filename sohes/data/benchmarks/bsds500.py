"""BSDS500 (Arbelaez et al., 2011), validation images, as class-agnostic ground truth.

Protocol (ours; the paper does not use the set). Some five people segmented each image, each as finely as they saw fit,
so together they draw wholes and parts. Every region of every annotator is an entity, in the order of the file, except
that a region whose IoU with an earlier one exceeds 0.5 is the same entity drawn again, and the first outline stands.
Above 0.5 the partner within one person's segmentation is unique, which is why panoptic quality uses that number, too.
No hierarchy is annotated. Image ids are the number in the name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sohes import masks
from sohes.data.benchmarks import coco, layout, matlab
from sohes.errors import SohesError
from sohes.structures import ImageRecord

NAME = "bsds500"
INFO = """Get BSR_bsds500.tgz from Berkeley's segmentation page. DIR is BSR/BSDS500/data, or the folder of BSR:
  groundTruth/val/101085.mat ...         (or groundTruth/101085.mat)
  images/val/101085.jpg ...              (or images/101085.jpg; only to predict)"""
SAME_ENTITY_IOU = 0.5
MOST_REGIONS = 2_000  # of all annotators of an image together; the set has some hundreds


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth in the order of the numbers. SohesError if there is no `.mat`."""
    data = _data(root)
    folder = data / "groundTruth/val" if (data / "groundTruth/val").is_dir() else data / "groundTruth"
    files = sorted(folder.glob("*.mat"), key=lambda file: layout.number(file.name))
    if not files:
        layout.find(root, "groundTruth/val/*.mat", "groundTruth/*.mat", name=NAME)
    return map(_record, files)


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored."""
    return layout.read_file(_data(root), "images/val", "images", name=file_name)


def _data(root: Path) -> Path:
    inner = Path(root) / "BSR/BSDS500/data"
    return inner if inner.is_dir() else Path(root)


def _record(path: Path) -> ImageRecord:
    what = "a ground truth of BSDS500"
    cells = matlab.read(path, "groundTruth", what=what)
    try:
        annotators = [cells] if isinstance(cells, dict) else list(cells)
        labels_KHW = np.stack([np.asarray(annotator["Segmentation"], np.int64) for annotator in annotators])
        _, height, width = labels_KHW.shape
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise SohesError(f"{path} is not {what}: {error}") from None
    regions = [np.unique(one) for one in labels_KHW]
    if sum(map(len, regions)) > MOST_REGIONS:
        raise SohesError(f"{path} is not {what}: its annotators drew more than {MOST_REGIONS:,} regions")
    regions_NHW = np.concatenate([own[:, None, None] == one for own, one in zip(regions, labels_KHW, strict=True)])
    iou_NN = masks.iou_from_intersections(masks.intersections(regions_NHW))
    kept = masks.nms_from_iou(iou_NN, np.arange(len(regions_NHW)), nms_iou=SAME_ENTITY_IOU)
    return coco.record(layout.image(f"{path.stem}.jpg", (height, width)), masks.encode(regions_NHW[kept]), NAME)
