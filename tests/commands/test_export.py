from __future__ import annotations

import json
from pathlib import Path

import pytest

from sohes.commands.export import export
from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange.formats import FORMATS, FormatName
from sohes.errors import SohesError
from sohes.masks import empty_mask_set, mask_json


@pytest.mark.parametrize("name", ["parquet", "coco", "sa1b", "label-studio", "id-maps"])
@pytest.mark.parametrize("ids", [(1, None), (None, 1), (None, 2, None, 1), (None, None)])
def test_images_without_an_id_get_one_that_no_other_has(ids: tuple[int | None, ...], name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place, number in enumerate(ids):
        content = mask_json.sa1b(empty_mask_set(6, 8), f"{place}.jpg", number)
        (tmp_path / f"in/{place}.json").write_text(json.dumps(content))
    out = tmp_path / f"out{FORMATS[name].suffix}"
    export(out, tmp_path / "in", name)
    found = {record.file_name: record.image_id for record in read_records(out)}
    assert len(set(found.values())) == len(found) == len(ids)
    assert all(found[f"{place}.jpg"] == number for place, number in enumerate(ids) if number is not None)


@pytest.mark.parametrize("name", ["yolo", "labelme", "id-maps"])
def test_names_that_clash_leave_no_file(name: FormatName, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for place, file_name in enumerate(("a.jpg", "b.jpg", "a.png")):
        content = mask_json.sa1b(empty_mask_set(6, 8), file_name, place + 1)
        (tmp_path / f"in/{place}.json").write_text(json.dumps(content))
    with pytest.raises(SohesError, match="would share"):
        export(tmp_path / "out", tmp_path / "in", name)
    assert not (tmp_path / "out").exists()
