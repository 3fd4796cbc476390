from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import id_maps
from sohes.errors import SohesError
from sohes.masks import mask_set
from sohes.masks.packed import pack
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


def test_masks_are_laid_and_read_within_their_boxes(tmp_path: Path) -> None:
    """The same maps and run lengths as with whole pictures, also at the borders and without a pixel."""
    masks_NHW = np.random.default_rng(0).random((40, 30, 50)) < 0.5
    for mask_HW, (y, x) in zip(masks_NHW, np.random.default_rng(1).integers(0, 30, (40, 2)), strict=True):
        mask_HW[:y], mask_HW[:, :x], mask_HW[y + x // 3 :], mask_HW[:, x + 9 :] = 0, 0, 0, 0
    masks_NHW[7], masks_NHW[8] = 0, 1
    found = mask_set(masks_NHW)
    id_maps.write([ImageRecord(7, "a.jpg", "", found)], tmp_path)
    listed = json.loads((tmp_path / "a.ids.json").read_text())["masks"]
    wanted: list[np.ndarray] = [np.zeros((30, 50), int)]
    for number, mask_HW in enumerate(masks_NHW, 1):
        place = next((k for k, map_HW in enumerate(wanted) if not map_HW[mask_HW].any()), len(wanted))
        wanted += [np.zeros((30, 50), int)] * (place == len(wanted))
        wanted[place] = np.where(mask_HW, number, wanted[place])
        assert listed[number - 1]["map"] == place
    for place, map_HW in enumerate(wanted):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"a.{place}.png")), map_HW)
    assert id_maps.read(tmp_path / "a.ids.json").masks.rles == found.rles


def test_no_mask_is_drawn_beyond_its_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for name in ("sample", "pack"):
        function = getattr(id_maps, name)

        def counting(*args: object, function: Callable[..., Any] = function, **options: object) -> Any:
            drawn.append((args[0] if function is pack else function(*args)).shape[-2:])
            return function(*args, **options)

        monkeypatch.setattr(id_maps, name, counting)
    id_maps.write([ImageRecord(7, "a.jpg", "", FOUND)], tmp_path)
    assert id_maps.read(tmp_path / "a.ids.json").masks.rles == FOUND.rles
    boxes = [(6, 4), (2, 2), (6, 4), (2, 4)]
    assert sorted(drawn) == sorted(boxes * 2)
