"""Boxes and categories of a COCO file that cannot be read."""

import json

import pytest

from sohes.downstream.sets import coco
from sohes.errors import SohesError


def written(folder, **changes):
    (folder / "annotations").mkdir(exist_ok=True)
    annotation = {"id": 4, "image_id": 1, "category_id": 3, "bbox": [1, 2, 5, 6]} | changes.pop("annotation", {})
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "annotations": [annotation],
        "categories": [{"id": 3, "name": "cup"}],
    }
    for split in ("train2017", "val2017"):
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content | changes))
    return folder


@pytest.mark.parametrize(
    ("change", "boxes"),
    [
        ({}, 1),
        ({"image_id": "1", "category_id": "3", "bbox": ["1", 2.0, 5, 6], "iscrowd": "0"}, 1),
        ({"iscrowd": "1", "bbox": None}, 0),
        ({"bbox": [1, 2, 0, 6]}, 0),
    ],
)
def test_values_of_other_types_are_read(tmp_path, change, boxes):
    found = coco.open_set(written(tmp_path, annotation=change))
    ((_, name, size, boxes_T4, labels_T),) = found.val
    assert (name, size, len(boxes_T4), labels_T.tolist()) == ("1.jpg", (20, 30), boxes, [0] * boxes)


@pytest.mark.parametrize(
    "change",
    [
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, None, 4]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"category_id": 9},
        {"category_id": None},
    ],
)
def test_a_broken_annotation_is_named(tmp_path, change):
    with pytest.raises(SohesError, match=r"instances_train2017\.json: annotation 4 needs a box"):
        coco.open_set(written(tmp_path, annotation=change))


@pytest.mark.parametrize("categories", [None, [3], [{"id": "x", "name": "cup"}], [{"id": 3}]])
def test_broken_categories_are_named(tmp_path, categories):
    with pytest.raises(SohesError, match="needs categories"):
        coco.open_set(written(tmp_path, categories=categories))
