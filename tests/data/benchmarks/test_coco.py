import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sohes.data.benchmarks import coco
from sohes.errors import SohesError
from sohes.masks import decode
from sohes.structures import CROWD, ImageRecord

# pycocotools 2.0.11 decodes in a way that numpy 2.4 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

IMAGES = [
    {"id": 7, "file_name": "a.jpg", "height": 4, "width": 6},
    {"id": 3, "file_name": "sub/b.jpg", "height": 5, "width": 5},
]
POLYGON = [[1, 1, 5, 1, 5, 3, 1, 3]]  # a box of 4 x 2 pixels
MASK = np.zeros((4, 6), np.uint8)
MASK[2:, :3] = 1


def annotation(number: int, segmentation: object, *, image_id: int = 7, iscrowd: int = 0) -> dict:
    return {"id": number, "image_id": image_id, "category_id": number, "segmentation": segmentation, "iscrowd": iscrowd}


def written(path: Path, annotations: list[dict], images: list[dict] | None = None) -> Path:
    path.write_text(json.dumps({"images": IMAGES if images is None else images, "annotations": annotations}))
    return path


def read(path: Path, image_ids: set[int] | None = None) -> Iterator[ImageRecord]:
    return coco.read_content(coco.load(path), path, image_ids)


def test_polygons_and_run_lengths_of_both_kinds_agree_with_pycocotools(tmp_path: Path, capsys) -> None:
    compressed = coco_mask.encode(np.asfortranarray(MASK))
    segmentations = [
        POLYGON,
        [*POLYGON, [0, 0, 2, 0, 2, 1]],
        {"size": [4, 6], "counts": compressed["counts"].decode()},
        {"size": [4, 6], "counts": [2, 2, 2, 2, 2, 2, 12]},
    ]
    path = written(tmp_path / "a.json", [annotation(i, s) for i, s in enumerate(segmentations, 1)])
    first, second = read(path)
    reference = COCO(str(path))
    np.testing.assert_array_equal(
        decode(first.masks), [reference.annToMask(reference.anns[i]).astype(bool) for i in (1, 2, 3, 4)]
    )
    np.testing.assert_array_equal(decode(first.masks)[0, 1:3, 1:5], np.ones((2, 4)))
    np.testing.assert_array_equal(decode(first.masks)[3], MASK)
    assert (first.image_id, first.file_name, first.masks.height, first.masks.width) == (7, "a.jpg", 4, 6)
    assert first.masks.sources == ("coco",) * 4
    assert (first.masks.parents == -1).all()
    assert (second.image_id, len(second.masks)) == (3, 0)  # an image without annotations stays


def test_crowds_are_marked_and_masks_without_pixels_dropped(tmp_path: Path) -> None:
    crowd = annotation(2, {"size": [4, 6], "counts": [2, 2, 20]}, iscrowd=1)
    nothing = annotation(3, {"size": [4, 6], "counts": [24]})
    path = written(
        tmp_path / "a.json", [annotation(1, POLYGON), nothing, crowd, annotation(4, []), annotation(5, [[1, 1]])]
    )
    first = next(read(path))
    assert first.masks.sources == ("coco", CROWD)


def test_only_the_images_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", [annotation(1, POLYGON)])
    assert [record.image_id for record in read(path, {3})] == [3]


@pytest.mark.parametrize(
    ("segmentation", "sentence"),
    [
        ({"size": [6, 4], "counts": [24]}, r"annotation 1 of a\.jpg.*size \[6, 4\] is not the image's \[4, 6\]"),
        ("nonsense", r"annotation 1 of a\.jpg has no mask that can be read"),
        (None, "there is no segmentation"),
    ],
)
def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path, segmentation: object, sentence: str) -> None:
    with pytest.raises(SohesError, match=sentence):
        list(read(written(tmp_path / "a.json", [annotation(1, segmentation)])))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not COCO JSON"),
        ('{"images": []}', "is not COCO JSON"),
        ('{"images": [], "annotations": [["a", "b"]]}', "one of its annotations is no object"),
        ('{"images": [{"id": 9223372036854775808}], "annotations": []}', "an image needs file_name and whole numbers"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"images": [{"id": "x"}], "annotations": []}', "an image needs file_name and whole numbers"),
        (json.dumps({"images": IMAGES + IMAGES, "annotations": []}), "an image id occurs twice"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SohesError, match=sentence):
        coco.load(tmp_path / "a.json")


def test_a_byte_order_mark_is_no_part_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"images": IMAGES, "annotations": []}), "utf-8-sig")
    assert coco.load(tmp_path / "a.json")["images"] == IMAGES


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="no annotations at"):
        coco.load(tmp_path / "a.json")
