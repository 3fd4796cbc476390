import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sohes import masks
from sohes.errors import SohesError
from sohes.masks import mask_json
from sohes.structures import CROWD

DRAWN = np.zeros((3, 6, 8), bool)
DRAWN[0, 1:5, 1:7] = DRAWN[1, 2:4, 2:5] = DRAWN[2, 0, 7] = True
FOUND = masks.mask_set(
    DRAWN, scores=np.array([0.9, 0.8, 0.7]), parents=np.array([-1, 0, -1]), sources=["a", "b", CROWD]
)
FILE = Path("cat.json")


def through_json(content):
    return json.loads(json.dumps(content))


def test_both_formats_have_the_same_keys_and_the_same_figures():
    coco, sa1b = mask_json.coco_annotations(FOUND, 7), mask_json.sa1b(FOUND, "cat.jpg")["annotations"]
    shared = {"id", "segmentation", "area", "bbox", "score", "parent_id", "parent", "level", "source"}
    assert set(coco[0]) == shared | {"image_id", "category_id", "iscrowd"}
    assert set(sa1b[0]) == shared | {"predicted_iou"}
    assert [{key: a[key] for key in shared} for a in coco] == [{key: a[key] for key in shared} for a in sa1b]
    assert [a["parent_id"] for a in coco] == [a["parent"] for a in coco] == [None, 1, None]
    assert [a["iscrowd"] for a in coco] == [0, 0, 1]
    assert [a["id"] for a in mask_json.coco_annotations(FOUND, 7, first_id=5)] == [5, 6, 7]


def test_what_is_written_is_read_back():
    record = mask_json.read_sa1b(through_json(mask_json.sa1b(FOUND, "cat.jpg", 7)), FILE)
    assert (record.image_id, record.file_name, record.masks.rles) == (7, "cat.jpg", FOUND.rles)
    assert record.masks.scores.astype(np.float32).tolist() == FOUND.scores.tolist()
    assert record.masks.parents.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    "older",
    [
        ["score", "parent_id"],  # as `sohes segment` wrote them
        ["predicted_iou", "parent"],  # as `sohes export` wrote them
    ],
)
def test_files_of_earlier_versions_are_read(older):
    content = through_json(mask_json.sa1b(FOUND, "cat.jpg"))
    for annotation in content["annotations"]:
        for key in {"score", "predicted_iou", "parent_id", "parent", "level", "source"} - set(older):
            del annotation[key]
    found = mask_json.read_sa1b(content, FILE).masks
    assert found.scores.astype(np.float32).tolist() == FOUND.scores.tolist()
    assert found.parents.tolist() == [-1, 0, -1]


def test_a_parent_that_is_not_there_makes_a_root():
    content = through_json(mask_json.sa1b(FOUND, "cat.jpg"))
    content["annotations"] = content["annotations"][1:]
    assert mask_json.read_sa1b(content, FILE).masks.parents.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"id": [1]}, r"cat\.json: the masks of cat\.jpg are not a forest"),
        ({"parent_id": 1}, r"cat\.json: the masks of cat\.jpg are not a forest: .*cycle"),
        ({"score": True}, "has the score True"),
        ({"segmentation": {"size": [1, 1], "counts": "01"}}, "annotation 1 of cat.jpg has no mask that can be read"),
    ],
)
def test_a_damaged_annotation_is_named(change, sentence):
    content = through_json(mask_json.sa1b(FOUND, "cat.jpg"))
    content["annotations"][0] |= change
    with pytest.raises(SohesError, match=sentence):
        mask_json.read_sa1b(content, FILE)


def test_crowds_and_sources_are_read():
    found = mask_json.read_sa1b(through_json(mask_json.sa1b(FOUND, "cat.jpg")), FILE, source="other").masks
    assert found.sources == ("a", "b", CROWD)
    annotations = through_json(mask_json.coco_annotations(FOUND, 7))
    for annotation in annotations:
        del annotation["source"]  # as anybody else's
    assert mask_json.Found((6, 8), "cat.jpg", FILE).add(annotations).masks("x").sources == ("x", "x", CROWD)
    annotations[0]["iscrowd"] = 2
    with pytest.raises(SohesError, match=r"cat\.json: iscrowd of annotation 1 of cat\.jpg: a flag is 0 or 1"):
        mask_json.Found((6, 8), "cat.jpg", FILE).add(annotations)


def test_the_areas_that_a_truth_states_are_written():
    truth = replace(FOUND, stated_areas=np.array([30.5, np.nan, 7]))
    assert [annotation["area"] for annotation in mask_json.coco_annotations(truth, 7)] == [30.5, 6, 7]
    assert [annotation["area"] for annotation in mask_json.coco_annotations(FOUND, 7)] == [24, 6, 1]


def test_what_has_no_polygon_is_not_held_back_until_the_file_is_read():
    def annotations():
        yield {"segmentation": {"size": [1, 1], "counts": "01"}}
        raise AssertionError("the second was asked for")

    assert next(mask_json.with_sides(annotations()))[1] is False


@pytest.mark.parametrize(
    ("polygons", "in_sides"),
    [([], False), ([[[0, 0.5, 1, 1]]], True), ([[[0, 0.5]], [[0, 2]]], False), ([[["a", 0.5]]], False)],
)
def test_polygons_within_one_pixel_are_in_sides(polygons, in_sides):
    found = list(mask_json.with_sides({"segmentation": polygon} for polygon in polygons))
    assert [flag for _, flag in found] == [in_sides] * len(polygons)
    assert [one["segmentation"] for one, _ in found] == polygons


def test_sa1b_in_sides_is_read():
    content = through_json(mask_json.sa1b(FOUND, "cat.jpg"))
    content["annotations"][0]["segmentation"] = [[1 / 8, 1 / 6, 7 / 8, 1 / 6, 7 / 8, 5 / 6, 1 / 8, 5 / 6]]
    assert mask_json.read_sa1b(content, FILE).masks.rles == FOUND.rles
