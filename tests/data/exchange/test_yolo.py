from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import yolo
from sohes.errors import SohesError
from sohes.masks import decode, empty_mask_set, mask_set
from sohes.structures import ImageRecord

MASKS = np.zeros((2, 8, 10), bool)
MASKS[0, 1:7, 1:6] = True
MASKS[0, 3:5, 3:4] = False
MASKS[1, 0, 0] = MASKS[1, 7, 9] = True
IMAGES = [ImageRecord(1, "sub/a.jpg", "", mask_set(MASKS))]


def read(folder: Path, text: str) -> ImageRecord:
    (folder / "a.txt").write_text(text)
    return next(iter(read_records(folder, IMAGES)))


def test_a_line_a_mask_whatever_its_holes_and_parts(tmp_path: Path) -> None:
    yolo.write([*IMAGES, ImageRecord(2, "b.jpg", "", empty_mask_set(8, 10))], tmp_path)
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == {0: "entity"}
    lines = (tmp_path / "labels/sub/a.txt").read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        kind, *corners = line.split()
        assert kind == "0"
        assert len(corners) % 2 == 0
        assert all(0 <= float(value) <= 1 for value in corners)
    assert (tmp_path / "labels/b.txt").read_text() == ""  # an image without masks is an example, too


def test_a_further_number_is_the_score(tmp_path: Path) -> None:
    found = read(tmp_path, "3 0 0 0.5 0 0.5 1 0 1 0.25\n\n0 0 0 1 0 1 1 0 1\n").masks
    assert found.scores.tolist() == [0.25, 1]
    left = np.zeros((8, 10), bool)
    left[:, :5] = True
    np.testing.assert_array_equal(decode(found), [left, np.ones((8, 10), bool)])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.1 0.2 0.3 0.4", r"line 1 has 4 numbers, which are no polygon"),
        ("0 a b c d e f", r"line 1: '0 a b c d e f' holds more than numbers"),
        ("0 0 0 nan 0 1 1", "no finite number"),
        ("0 0 0 900 0 1 1", "far outside"),
        ("0 0 0 1 0 1 1 inf", "score inf"),
    ],
)
def test_a_line_that_is_no_polygon_is_named(line: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SohesError, match=rf"a\.txt.*{words}"):
        read(tmp_path, line)


def test_two_images_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    masks = mask_set(MASKS)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "two").mkdir()
    (tmp_path / "two/a.txt").write_text("")
    images = [ImageRecord(1, "a.jpg", "", masks), ImageRecord(2, "two/a.jpg", "", masks)]
    assert [record.file_name for record in read_records(tmp_path, images)] == ["a.jpg", "two/a.jpg"]
    twins = [ImageRecord(1, "a.jpg", "", masks), ImageRecord(2, "a.png", "", masks)]
    with pytest.raises(SohesError, match=r"a\.txt is of no image whose size is known"):
        list(read_records(tmp_path, twins))


def test_lines_are_in_the_order_of_the_scores(tmp_path: Path) -> None:
    masks_NHW = np.zeros((4, 10, 10), bool)
    for index in (0, 1, 3):  # the third is without a pixel
        masks_NHW[index, index : index + 2] = True
    masks = mask_set(masks_NHW, scores=np.array([0.2, 0.9, 0.5, 0.9], np.float32))
    yolo.write([ImageRecord(1, "a.jpg", "", masks)], tmp_path)
    tops = [min(float(y) for y in line.split()[2::2]) for line in (tmp_path / "labels/a.txt").read_text().splitlines()]
    assert tops == [0.1, 0.3, 0]
