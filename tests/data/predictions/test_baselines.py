"""A small file of each system that the paper compares with, in the form in which that system leaves its masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sohes.data.benchmarks.predictions.read import read_predictions
from sohes.masks import decode, mask_set
from sohes.structures import ImageRecord

LEFT = np.zeros((4, 6), bool)
LEFT[:, :3] = True
TRUTH = [ImageRecord(i, f"{i:012}.jpg", "", mask_set(LEFT[None])) for i in (139, 285)]


def rle(mask_HW: np.ndarray) -> dict:
    packed = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": [4, 6], "counts": packed["counts"].decode()}


def results(category_id: int, **more: object) -> list[dict]:
    """What detectron2's COCO evaluation writes; category_id is the network's class, whatever it is called."""
    return [
        {"image_id": record.image_id, "category_id": category_id, "bbox": [0.0, 0.0, 3.0, 4.0], "score": score,
         "segmentation": rle(mask), **more}
        for record in TRUTH
        for score, mask in ((0.875, LEFT), (0.5, ~LEFT))
    ]  # fmt: skip


def freesolo(folder: Path) -> Path:
    (folder / "inference").mkdir()
    (folder / "inference/coco_instances_results.json").write_text(json.dumps(results(1)))
    (folder / "inference/instances_predictions.pth").write_bytes(b"")
    return folder / "inference"


def cutler(folder: Path) -> Path:
    (folder / "coco_instances_results.json").write_text(json.dumps(results(0)))
    return folder / "coco_instances_results.json"


def hassod(folder: Path) -> Path:
    """Pseudo-labels: an annotation file with a level of the hierarchy and no score."""
    images = [{"id": r.image_id, "file_name": r.file_name, "height": 4, "width": 6} for r in TRUTH]
    annotations = [
        {"id": 2 * r.image_id + level, "image_id": r.image_id, "category_id": 1, "iscrowd": 0, "area": 12,
         "bbox": [0, 0, 3, 4], "segmentation": rle(mask), "hier_level": level}
        for r in TRUTH
        for level, mask in enumerate((LEFT, ~LEFT))
    ]  # fmt: skip
    (folder / "pseudo.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "fg"}]})
    )
    return folder / "pseudo.json"


def unsam(folder: Path) -> Path:
    """Divide and conquer: a file for each image, under `image` what COCO has under `images`."""
    for record in TRUTH:
        image = {"id": record.image_id, "file_name": record.file_name, "height": 4, "width": 6, "license": 1}
        annotations = [
            {"id": i, "image_id": record.image_id, "category_id": 1, "iscrowd": 0, "segmentation": rle(mask),
             "width": 6, "height": 4}
            for i, mask in enumerate((LEFT, ~LEFT))
        ]  # fmt: skip
        content = {"info": {}, "licenses": [], "categories": [], "image": image, "annotations": annotations}
        (folder / f"{record.image_id}.json").write_text(json.dumps(content))
    return folder


def sam(folder: Path) -> Path:
    """SA-1B's own annotation files, which its automatic mask generator wrote."""
    for record in TRUTH:
        image = {"image_id": record.image_id, "file_name": record.file_name, "height": 4, "width": 6}
        annotations = [
            {"id": i, "segmentation": rle(mask), "predicted_iou": score, "stability_score": 0.97, "area": 12,
             "bbox": [0, 0, 3, 4], "point_coords": [[1.0, 1.0]], "crop_box": [0, 0, 6, 4]}
            for i, (score, mask) in enumerate(((0.875, LEFT), (0.5, ~LEFT)))
        ]  # fmt: skip
        (folder / f"sa_{record.image_id}.json").write_text(json.dumps({"image": image, "annotations": annotations}))
    return folder


@pytest.mark.parametrize(
    ("system", "scores"),
    [(freesolo, [0.875, 0.5]), (cutler, [0.875, 0.5]), (hassod, [1, 1]), (unsam, [1, 1]), (sam, [0.875, 0.5])],
)
def test_what_each_system_leaves_behind_is_read(system, scores, tmp_path):
    found = list(read_predictions([system(tmp_path)], TRUTH))
    assert [record.image_id for record in found] == [139, 285]
    for record in found:
        np.testing.assert_array_equal(decode(record.masks), [LEFT, ~LEFT])
        assert record.masks.scores.tolist() == scores
