import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks import coco, coco_panoptic
from sohes.errors import SohesError
from sohes.masks import areas, decode
from sohes.structures import CROWD, ImageRecord

# pycocotools 2.0.11 decodes in a way that numpy 2.4 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Segment ids beyond one byte and beyond two: R + 256 G + 65536 B. 0 is void, 5 is a crowd.
IDS = np.array(
    [
        [300, 300, 0, 70000],
        [300, 5, 5, 70000],
        [300, 5, 5, 70000],
    ]
)


def written(folder: Path, ids_HW: np.ndarray = IDS) -> Path:
    colours = np.stack([ids_HW % 256, ids_HW // 256 % 256, ids_HW // 65536], 2).astype(np.uint8)
    (folder / "panoptic").mkdir()
    Image.fromarray(colours).save(folder / "panoptic/a.png")
    segments = [
        {"id": 70000, "iscrowd": 0},
        {"id": 5, "iscrowd": 1},
        {"id": 300, "iscrowd": 0},
        {"id": 9, "iscrowd": 0},
    ]
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": 3, "width": 4},
            {"id": 2, "file_name": "b.jpg", "height": 3, "width": 4},
        ],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder / "panoptic.json"


def read(path: Path, image_ids: set[int] | None = None) -> Iterator[ImageRecord]:
    return coco_panoptic.read_content(coco.load(path), path, image_ids)


def test_segments_are_masks_void_is_none_and_crowds_are_marked(tmp_path: Path) -> None:
    path = written(tmp_path)
    first, second = read(path)
    np.testing.assert_array_equal(decode(first.masks), [IDS == 70000, IDS == 5, IDS == 300])  # 9 has no pixel
    assert first.masks.sources == ("coco_panoptic", CROWD, "coco_panoptic")
    assert (second.image_id, len(second.masks)) == (2, 0)
    assert [record.image_id for record in read(path, {2})] == [2]


def test_the_two_kinds_of_json_are_told_apart(tmp_path: Path) -> None:
    assert coco_panoptic.is_panoptic(coco.load(written(tmp_path)))
    assert not coco_panoptic.is_panoptic({"annotations": [{"id": 1, "segmentation": []}]})
    assert not coco_panoptic.is_panoptic({"annotations": []})


def test_a_png_of_another_size_or_none_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, IDS.T)
    with pytest.raises(SohesError, match=r"a\.png is 3 x 4, its image 4 x 3"):
        list(read(path))
    (tmp_path / "panoptic/a.png").unlink()
    with pytest.raises(SohesError, match=r"a\.png cannot be read"):
        list(read(path))


def test_real_annotations(shared_data: Path) -> None:
    path = shared_data / "coco_panoptic_100/panoptic.json"
    content = json.loads(path.read_text())
    wanted = {
        annotation["image_id"]: [segment["area"] for segment in annotation["segments_info"]]
        for annotation in content["annotations"]
    }
    records = list(read(path))
    assert sum(len(record.masks) for record in records) == 1111
    for record in records:
        assert areas(record.masks).tolist() == wanted[record.image_id]
