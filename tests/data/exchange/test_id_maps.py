from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import id_maps
from sohes.errors import SohesError
from sohes.masks import mask_set
from sohes.structures import ImageRecord

MASKS = np.zeros((4, 6, 8), bool)
MASKS[0, :, :4] = MASKS[1, 1:3, 1:3] = MASKS[2, :, 4:] = MASKS[3, 2:4, 2:6] = True
FOUND = mask_set(MASKS, parents=np.array([-1, 0, -1, -1]))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    id_maps.write([ImageRecord(7, "a.jpg", "", FOUND)], tmp_path)
    return tmp_path


def test_masks_that_overlap_lie_in_several_maps(written: Path) -> None:
    """Whole entities first, each part below them."""
    pictures = sorted(path.name for path in written.glob("*.png"))
    assert pictures == ["a.0.png", "a.1.png", "a.2.png"]
    whole, overlapping, parts = (np.asarray(Image.open(written / name)) for name in pictures)
    np.testing.assert_array_equal(whole, MASKS[0] * 1 + MASKS[2] * 3)
    np.testing.assert_array_equal(overlapping, MASKS[3] * 4)
    np.testing.assert_array_equal(parts, MASKS[1] * 2)  # it shares a pixel with the fourth
    listed = json.loads((written / "a.ids.json").read_text())["masks"]
    assert [(mask["id"], mask["map"], mask["parent_id"], mask["level"]) for mask in listed] == [
        (1, 0, None, 0), (2, 2, 1, 1), (3, 0, None, 0), (4, 1, None, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "a.1.png").unlink(), "a.1.png is missing"),
        (lambda folder: (folder / "a.1.png").write_bytes(b"no picture"), "a.1.png cannot be read"),
        (lambda folder: Image.new("L", (9, 9)).save(folder / "a.1.png"), "a.1.png is 9 x 9, its image 8 x 6"),
        (lambda folder: Image.new("RGB", (8, 6)).save(folder / "a.1.png"), "a.1.png has several channels"),
        (lambda folder: (folder / "a.ids.json").write_text("[]"), "lists no id maps"),
        (lambda folder: (folder / "a.ids.json").write_text('{"image": {}, "masks": []}'), "its image: height and"),
        (lambda folder: changed(folder, id=None), "whole numbers"),
        (lambda folder: changed(folder, map=-1), r"a\.-1\.png is missing"),
        (lambda folder: changed(folder, parent_id=1), "not a forest"),
    ],
)
def test_damage_is_one_sentence(change, words: str, written: Path) -> None:
    change(written)
    with pytest.raises(SohesError, match=words):
        list(read_records(written))


def changed(folder: Path, **keys: object) -> None:
    content = json.loads((folder / "a.ids.json").read_text())
    content["masks"][0] |= keys
    (folder / "a.ids.json").write_text(json.dumps(content))
