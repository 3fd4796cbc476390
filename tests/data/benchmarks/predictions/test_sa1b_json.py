import json
from pathlib import Path

import numpy as np
import pytest

from sohes.data.benchmarks.predictions import sa1b_json
from sohes.data.store.labels import export_sa1b
from sohes.errors import SohesError
from sohes.masks import coco_rles, mask_set
from sohes.structures import ImageRecord

MASKS = mask_set(np.eye(4, dtype=bool)[None].repeat(2, 0), scores=np.array([0.5, 0.25]), parents=[-1, -1])


def annotation(**more: object) -> dict:
    rle = coco_rles(MASKS)[0]
    return {"id": 1, "segmentation": {**rle, "counts": rle["counts"].decode()}, **more}


def written(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def test_each_systems_score_is_found(tmp_path):
    image = {"image_id": 5, "file_name": "sa_5.jpg", "height": 4, "width": 4}
    sam = annotation(predicted_iou=0.9, stability_score=0.97, point_input=[[1, 2]], crop_box=[0, 0, 4, 4])
    unsam = {"image": {"id": 6, "file_name": "b.jpg", "height": 4, "width": 4, "license": 1}}
    written(tmp_path, "a.json", {"image": image, "annotations": [sam, annotation(score=0.4, predicted_iou=0.9)]})
    written(tmp_path, "b.json", {**unsam, "annotations": [annotation(area=4, iscrowd=0, category_id=1)]})
    written(tmp_path, "c.json", {"image": {"height": 4, "width": 4}, "annotations": []})
    first, second, third = sa1b_json.read(tmp_path)
    assert (first.image_id, first.file_name, first.masks.scores.tolist()) == (5, "sa_5.jpg", [0.9, 0.4])
    assert (second.image_id, second.masks.scores.tolist()) == (6, [1.0])
    assert (third.image_id, third.file_name, len(third.masks)) == (-1, "c", 0)


def test_our_own_export_comes_back(tmp_path):
    record = ImageRecord(9, "x.jpg", "", MASKS)
    export_sa1b([record], tmp_path)
    (back,) = sa1b_json.read(tmp_path)
    assert (back.image_id, back.file_name, back.masks.rles) == (9, "x.jpg", MASKS.rles)
    assert back.masks.scores.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "a.json is not SA-1B JSON"),
        ({"image": {"height": 4, "width": 4}}, "a.json is not SA-1B JSON"),
        ({"image": {"height": "4.5", "width": 4}, "annotations": []}, "needs whole numbers height and width"),
    ],
)
def test_a_file_of_another_kind_is_named(content, sentence, tmp_path):
    written(tmp_path, "a.json", content)
    with pytest.raises(SohesError, match=sentence):
        list(sa1b_json.read(tmp_path))
