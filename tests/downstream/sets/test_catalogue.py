"""Each reader on a small official tree, and the real sample."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks.catalogue import BENCHMARKS
from sohes.downstream.sets import scenes
from sohes.downstream.sets.catalogue import open_class_set
from sohes.downstream.sets.examples import VOID
from sohes.errors import SohesError
from sohes.params import ScenesParams


def photograph(path: Path, height: int = 20, width: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        photograph(tmp_path / f"images/{split}/{name}.jpg")
        numbers = np.zeros((20, 30), np.uint8)
        numbers[:10] = 150
        numbers[10:15] = 1
        (tmp_path / f"annotations/{split}").mkdir(parents=True)
        Image.fromarray(numbers).save(tmp_path / f"annotations/{split}/{name}.png")
    return tmp_path


def test_ade20k_counts_its_classes_from_one_and_zero_is_void(ade):
    data = open_class_set("semantic", f"ade20k={ade}")
    assert (len(data.classes), len(data.train), len(data.val)) == (150, 1, 1)
    shown = data.read(data.val[0])
    assert [int(shown.classes_HW[row, 0]) for row in (0, 12, 19)] == [149, 0, VOID]
    assert shown.boxes_T4.shape == (0, 4)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    for split in ("train2017", "val2017"):
        photograph(tmp_path / split / "000000000009.jpg")
        content = {
            "images": [{"id": 9, "file_name": "000000000009.jpg", "height": 20, "width": 30}],
            "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
            "annotations": [
                {"image_id": 9, "bbox": [5, 2, 10, 8], "category_id": 3, "iscrowd": 0},
                {"image_id": 9, "bbox": [0, 0, 30, 20], "category_id": 1, "iscrowd": 1},
                {"image_id": 9, "bbox": [5, 2, 0, 8], "category_id": 1, "iscrowd": 0},
            ],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_cocos_crowds_and_empty_boxes_are_left_out(coco):
    data = open_class_set("detection", f"coco={coco}")
    assert data.classes == ("person", "car")
    shown = data.read(data.train[0])
    assert shown.boxes_T4.tolist() == [[5, 2, 15, 10]]
    assert shown.labels_T.tolist() == [1]


def test_what_is_wrong_is_one_sentence(coco, ade):
    with pytest.raises(SohesError, match="no data set for semantic is called coco: there are ade20k, coco_panoptic"):
        open_class_set("semantic", f"coco={coco}")
    with pytest.raises(SohesError, match="NAME=DIR, such as coco"):
        open_class_set("detection", "coco")
    (coco / "annotations/instances_train2017.json").unlink()
    with pytest.raises(SohesError, match=r"no annotations/instances_train2017\.json"):
        open_class_set("detection", f"coco={coco}")
    (ade / "annotations/validation/ADE_val_00000001.png").unlink()
    with pytest.raises(SohesError, match="holds 1 training and 0 validation images: get both"):
        open_class_set("semantic", f"ade20k={ade}")


def test_a_scenes_classes_are_its_families():
    data = scenes.open_set(ScenesParams(size=96, train=8, eval=4), seed=0)
    assert len(data.classes) == 12
    for key in (*data.train, *data.val):
        shown = data.read(key)
        assert shown.classes_HW.min() >= 0
        assert len(shown.boxes_T4) == len(shown.labels_T) > 0
        assert set(np.unique(shown.classes_HW).tolist()) <= {0, *shown.labels_T.tolist()}
        for (x0, y0, x1, y1), label in zip(shown.boxes_T4.astype(int), shown.labels_T, strict=True):
            inside = shown.classes_HW[y0:y1, x0:x1] == label
            edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
            assert all(edge.any() for edge in edges)  # the box is tight


def test_real_photographs_both_ways(shared_data):
    data = open_class_set("detection", f"coco_panoptic={shared_data / 'coco_panoptic_100'}")
    assert (len(data.train), len(data.val), len(data.classes)) == (50, 50, 133)
    shown = [data.read(key) for key in data.val[:8]]
    assert sum(len(one.boxes_T4) for one in shown) > 8
    assert np.mean([(one.classes_HW != VOID).mean() for one in shown]) > 0.5
    for one in shown:
        height, width = one.classes_HW.shape
        assert (one.boxes_T4[:, :2] >= 0).all()
        assert (one.boxes_T4[:, 2:] <= (width, height)).all()


@pytest.mark.parametrize(
    ("task", "name"),
    [("semantic", "ade20k"), ("semantic", "coco_panoptic"), ("detection", "coco"), ("detection", "coco_panoptic")],
)
def test_a_missing_download_names_a_remedy_that_works(tmp_path, task, name):
    with pytest.raises(SohesError, match=r"unpack|benchmark-info") as raised:
        open_class_set(task, f"{name}={tmp_path}")
    if named := re.search("`sohes benchmark-info (.*)`", str(raised.value)):
        assert named[1] in BENCHMARKS
