from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import label_studio
from sohes.errors import SohesError
from sohes.masks import decode, mask_set
from sohes.structures import ImageRecord

LONG = np.zeros((200, 700), bool)  # runs longer than 16 bits can count
LONG[50:150] = True
MASKS = np.stack([LONG, np.zeros_like(LONG), np.ones_like(LONG), np.random.default_rng(0).random(LONG.shape) < 0.5])
MASKS[1, 0, 0] = True
FOUND = mask_set(MASKS, scores=np.array([0.5, 0.25, 0.125, 1]), parents=np.array([2, 2, -1, -1]))


def as_the_page_describes(data: list[int]) -> np.ndarray:
    """The bytes behind a brush stroke, bit by bit as its public description has it: a decoder of the test's own."""
    bits: Iterator[int] = (byte >> place & 1 for byte in data for place in range(7, -1, -1))

    def take(count: int) -> int:
        value = 0
        for _ in range(count):
            value = 2 * value + next(bits)
        return value

    length, word = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < length:
        if take(1):
            times = take(widths[take(2)]) + 1
            values += [take(word)] * times
        else:
            values += [take(word) for _ in range(take(widths[take(2)]) + 1)]
    assert len(values) == length
    assert not any(bits)  # the last byte is filled with zeros
    return np.array(values)


@pytest.mark.parametrize("mask_HW", MASKS)
def test_a_brush_stroke_is_what_the_format_says(mask_HW: np.ndarray) -> None:
    stroke = label_studio.packed(mask_HW)
    rgba = as_the_page_describes(stroke).reshape(*mask_HW.shape, 4)
    np.testing.assert_array_equal(rgba, np.repeat(mask_HW[..., None] * 255, 4, 2))
    np.testing.assert_array_equal(label_studio.unpacked(stroke, mask_HW.shape), mask_HW)


def literal(values: list[int]) -> list[int]:
    """A stroke of bytes as they are, with widths of its own, as another program may write it."""
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (1, 2, 5, 6))
    bits += f"011{len(values) - 1:06b}" + "".join(f"{value:08b}" for value in values)
    return [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]


def test_strokes_of_others_are_read() -> None:
    """A brush is soft at its edge: whatever its last channel has counts."""
    values = [0, 0, 0, 255, 9, 9, 9, 0, 200, 0, 0, 3, 0, 0, 0, 0]
    found = label_studio.unpacked(literal(values), (2, 2))
    assert found.tolist() == [[True, False], [True, False]]
    np.testing.assert_array_equal(as_the_page_describes(literal(values)), values)


def tasks(folder: Path) -> tuple[Path, list]:
    label_studio.write([ImageRecord(7, "a.jpg", "", FOUND)], folder / "tasks.json")
    return folder / "tasks.json", json.loads((folder / "tasks.json").read_text())


def test_what_is_written_is_a_task_with_regions_of_the_documented_interface(tmp_path: Path) -> None:
    _, (task,) = tasks(tmp_path)
    assert task["data"]["image"] == "a.jpg"
    assert "annotations" not in task  # nobody has looked at them yet
    regions = task["predictions"][0]["result"]
    assert len({region["id"] for region in regions}) == 4
    assert [region.get("parentID") for region in regions] == ["mask-3", "mask-3", None, None]
    for region in regions:
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "label", "image")
        assert (region["original_width"], region["original_height"], region["image_rotation"]) == (700, 200, 0)
        assert region["value"]["brushlabels"] == ["entity"]
    assert 'name="label" toName="image"' in label_studio.__doc__


def test_what_a_person_has_corrected_outranks_the_prediction(tmp_path: Path) -> None:
    path, (task,) = tasks(tmp_path)
    square = {"id": "x", "type": "polygonlabels", "original_width": 700, "original_height": 200,
              "value": {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["entity"]}}  # fmt: skip
    arrow = {"type": "relation", "from_id": "x", "to_id": "y"}
    task["annotations"] = [{"was_cancelled": True, "result": []}, {"result": [square, arrow]}]
    path.write_text(json.dumps([task]))
    (found,) = read_records(path)
    left = np.zeros((200, 700), bool)
    left[:, :350] = True
    np.testing.assert_array_equal(decode(found.masks), [left])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda task: task.pop("predictions"), "a.jpg has 0 annotations"),
        (lambda task: task.update(annotations=[{"result": []}, {"result": []}]), "a.jpg has 2 annotations"),
        (lambda task: region(task).update(type="ellipselabels"), "no brush stroke and no polygon .*ellipselabels"),
        (lambda task: region(task).update(original_width=7), "several sizes"),
        (lambda task: region(task).update(original_width=-7), "height and width"),
        (lambda task: region(task)["value"].update(rle="abc"), "no list of bytes"),
        (lambda task: region(task)["value"].update(rle=[1, 2, 300]), "no list of bytes"),
        (lambda task: region(task)["value"]["rle"].pop(), "cut short"),
        (lambda task: region(task)["value"]["rle"].__setitem__(3, 0), "holds .* bytes, and its size has 560000"),
        (lambda task: region(task).update(type="polygon", value={"points": [[1], 2]}), "no pairs"),
        (lambda task: region(task).update(score="high"), "has the score 'high'"),
        (lambda task: region(task).update(parentID=region(task)["id"]), "not a forest"),
        (lambda task: task.update(data=3), "is not a list"),
    ],
)
def test_a_damaged_task_is_one_sentence(change, words: str, tmp_path: Path) -> None:
    path, (task,) = tasks(tmp_path)
    change(task)
    path.write_text(json.dumps([{"data": {"image": "b.jpg", "height": 9, "width": 9}, "predictions": [{}]}, task]))
    with pytest.raises(SohesError, match=rf"tasks\.json.*{words}"):
        list(read_records(path))


def region(task: dict) -> dict:
    return task["predictions"][0]["result"][0]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"caption": "a cup.", "image": "trip/a.png"}, "trip/a.png"),
        ({"caption": "a cup.", "photo": "trip/A.JPG"}, "trip/A.JPG"),
        ({"image": "/data/local-files/?d=photos/a%20b.png"}, "photos/a b.png"),
        ({"text": "a", "photo": "/data/local-files/?d=photos/a.png"}, "photos/a.png"),
        ({"image": "/data/upload/1/0a1b2c3d-a%20b.png"}, "a b.png"),
        ({"image": "http://localhost:8080/data/upload/1/0a1b2c3d-a.png"}, "a.png"),
        ({"image": "0a1b2c3d-a.png"}, "0a1b2c3d-a.png"),
        ({"caption": "a cup."}, ""),
    ],
)
def test_a_task_is_named_after_its_photograph(data: dict, name: str) -> None:
    task = {"data": {**data, "height": 2, "width": 3}, "predictions": [{"result": []}]}
    assert label_studio.read_task(task, Path("tasks.json")).file_name == name
