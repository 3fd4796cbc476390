from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import labelme
from sohes.errors import SohesError
from sohes.masks import decode, mask_set
from sohes.structures import ImageRecord

HALVES = np.zeros((2, 6, 8), bool)
HALVES[0, :, :4] = HALVES[1, :, 4:] = True


def shape(kind: str, points: list, **more: object) -> dict:
    return {"label": "cat", "shape_type": kind, "points": points, **more}


def read(folder: Path, *shapes: object, **more: object) -> list[ImageRecord]:
    content = {"imagePath": "..\\photos\\cat.jpg", "imageHeight": 6, "imageWidth": 8, "shapes": list(shapes), **more}
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub/cat.json").write_text(json.dumps(content))
    return list(read_records(folder))


def test_what_labelme_draws_is_read(tmp_path: Path) -> None:
    left = shape("polygon", [[0, 0], [4, 0], [4, 6], [0, 6]])
    right = shape("rectangle", [[8, 6], [4, 0]])
    (found,) = read(tmp_path, left, right)
    assert found.file_name == "sub/cat.jpg"
    np.testing.assert_array_equal(decode(found.masks), HALVES)
    assert found.masks.scores.tolist() == [1, 1]
    (found,) = read(tmp_path, left | {"group_id": 4}, right | {"group_id": 4})
    np.testing.assert_array_equal(decode(found.masks), np.ones((1, 6, 8), bool))


def test_its_own_keys_are_there(tmp_path: Path) -> None:
    masks = mask_set(np.stack([HALVES[0] | np.roll(HALVES[0], 5, 1), HALVES[1]]), parents=np.array([-1, 0]))
    labelme.write([ImageRecord(1, "sub/a.jpg", "", masks)], tmp_path)
    content = json.loads((tmp_path / "sub/a.json").read_text())
    keys = {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert content.keys() == keys
    assert (content["imagePath"], content["imageData"]) == ("a.jpg", None)
    assert {"label", "points", "group_id", "shape_type", "flags", "description", "mask"} <= content["shapes"][0].keys()


@pytest.mark.parametrize(
    ("shapes", "more", "words"),
    [
        ([shape("circle", [[1, 1], [2, 2]])], {}, "shape 1 is no polygon and no rectangle .*circle"),
        ([shape("polygon", [[0, 0], [4]])], {}, "shape 1 is no polygon"),
        ([shape("rectangle", [[0, 0]])], {}, "rectangle of 1 corners"),
        ([3], {}, "shape 1 is no object"),
        ([shape("polygon", [[0, 0], ["x", 0], [1, 1]])], {}, "no number"),
        ([], {"imageHeight": None}, "imageHeight"),
        ([shape("polygon", [[0, 0], [4, 0], [4, 4]], group_id=1, parent_id=1)], {}, "not a forest"),
    ],
)
def test_a_shape_that_cannot_be_read_is_named(shapes: list, more: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(SohesError, match=rf"cat\.json.*{words}"):
        read(tmp_path, *shapes, **more)
