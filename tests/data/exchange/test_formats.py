"""Every format there and back: holes, islands, holes in islands, parts that touch at a corner, whole and no pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from sohes.commands.export import export
from sohes.data.benchmarks.predictions.read import read_predictions, read_records
from sohes.data.exchange.formats import FORMATS, check_out
from sohes.data.store.labels import write_shard
from sohes.errors import SohesError
from sohes.masks import decode, empty_mask_set, mask_set
from sohes.structures import CROWD, ImageRecord

POLYGONS = {"yolo", "labelme"}
HOLDS_A_FOREST = set(FORMATS) - {"yolo"}
SIZES_ELSEWHERE = {"yolo"}
WITHOUT_IDS = {"yolo", "labelme"}


def drawn() -> np.ndarray:
    """(7, 90, 120) masks that overlap."""
    masks = np.zeros((7, 90, 120), np.uint8)
    cv2.circle(masks[0], (50, 40), 36, 1, -1)
    masks[1] = masks[0]
    cv2.circle(masks[1], (50, 40), 24, 0, -1)  # a ring,
    cv2.circle(masks[1], (50, 40), 15, 1, -1)  # an island in its hole,
    cv2.circle(masks[1], (50, 40), 5, 0, -1)  # which has a hole,
    masks[1, 80:88, 100:118] = 1  # and a part apart
    masks[2, ::2, ::2] = masks[2, 1::2, 1::2] = 1  # as many outlines as there can be
    masks[2, :, 20:] = 0
    masks[3, 89, 119] = 1
    masks[4] = 1
    masks[5, 10:80, 10:110] = 1
    masks[5, 11:79, 11:109] = 0  # a frame of one pixel
    cv2.line(masks[6], (3, 85), (110, 5), 1, 1)
    return masks.astype(bool)


MASKS = drawn()
SCORES = np.linspace(0.9, 0.3, len(MASKS))
PARENTS = np.array([4, 0, 4, -1, -1, 4, 5])


def records(masks_NHW: np.ndarray = MASKS) -> list[ImageRecord]:
    n = len(masks_NHW)
    full = mask_set(masks_NHW, scores=np.resize(SCORES, n), parents=PARENTS if n == len(PARENTS) else None)
    nothing = empty_mask_set(*masks_NHW.shape[1:])
    return [ImageRecord(3, "trip/a.b.jpg", "", full), ImageRecord(5, "Ä nothing.png", "", nothing)]


def there_and_back(name: str, wanted: list[ImageRecord], folder: Path) -> list[ImageRecord]:
    out = folder / f"out{FORMATS[name].suffix}"
    FORMATS[name].write(iter(wanted), out)
    found = {record.image_id: record for record in read_predictions([out], wanted)}
    assert found.keys() == {record.image_id for record in wanted}  # also the one in which there is nothing
    return [found[record.image_id] for record in wanted]


def ious(a_NHW: np.ndarray, b_NHW: np.ndarray) -> np.ndarray:
    return (a_NHW & b_NHW).sum((1, 2)) / (a_NHW | b_NHW).sum((1, 2))


@pytest.mark.parametrize("name", FORMATS)
def test_masks_come_back(name: str, tmp_path: Path) -> None:
    wanted = records()
    found, nothing = there_and_back(name, wanted, tmp_path)
    assert len(nothing.masks) == 0
    if name in POLYGONS:
        assert ious(decode(found.masks), MASKS).min() > 0.98
    else:
        assert found.masks.rles == wanted[0].masks.rles
    if name in HOLDS_A_FOREST:
        assert found.masks.parents.tolist() == PARENTS.tolist()
        np.testing.assert_allclose(found.masks.scores, SCORES, rtol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_the_shape(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(st_numpy.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))))
    def try_one(masks_NHW: np.ndarray) -> None:
        masks_NHW = masks_NHW[masks_NHW.any((1, 2))]
        found, _ = there_and_back(name, records(masks_NHW), tmp_path_factory.mktemp("any"))
        assert len(found.masks) == len(masks_NHW)
        if len(masks_NHW):
            assert ious(decode(found.masks), masks_NHW).min() > (0.98 if name in POLYGONS else 0.9999)

    try_one()


@pytest.mark.parametrize("name", sorted(set(FORMATS) - SIZES_ELSEWHERE))
def test_export_reads_what_it_writes(name: str, tmp_path: Path) -> None:
    """From ours to theirs, from theirs to ours, by the command."""
    write_shard(tmp_path / "labels.parquet", records())
    theirs = tmp_path / f"theirs{FORMATS[name].suffix}"
    export(theirs, tmp_path / "labels.parquet", name)
    export(tmp_path / "again.parquet", theirs, "parquet")
    again = {record.file_name: record for record in read_records(tmp_path / "again.parquet")}
    assert again.keys() == {"trip/a.b.jpg", "Ä nothing.png"}
    assert ious(decode(again["trip/a.b.jpg"].masks), MASKS).min() > 0.98
    assert again["trip/a.b.jpg"].masks.parents.tolist() == PARENTS.tolist()
    ids = {record.image_id for record in again.values()}
    assert ids == ({1, 2} if name in WITHOUT_IDS else {3, 5})


@pytest.mark.parametrize("name", FORMATS)
def test_a_crowd_comes_back_as_one_or_is_left_out_in_words(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ["coco", CROWD, "local"]
    masks = mask_set(MASKS[[4, 0, 1]], parents=np.array([-1, 0, 1]), sources=sources)
    (found,) = there_and_back(name, [ImageRecord(3, "a.jpg", "", masks)], tmp_path)
    told = capsys.readouterr().err
    if FORMATS[name].crowds:
        assert found.masks.sources == masks.sources
        assert not told
    else:
        assert CROWD not in found.masks.sources
        assert len(found.masks) == 2
        assert found.masks.parents.tolist() == ([-1, 0] if name in HOLDS_A_FOREST else [-1, -1])
        assert "crowds are left out, 1 in all, such as in a.jpg: only parquet, coco, sa1b, id-maps hold them" in told


@pytest.mark.parametrize("file_name", ["../a.jpg", "/etc/a.jpg", "a/../../b.jpg", "..\\a.jpg", "", ".."])
@pytest.mark.parametrize("name", ["yolo", "labelme", "id-maps"])
def test_nothing_is_written_outside_the_folder(name: str, file_name: str, tmp_path: Path) -> None:
    record = ImageRecord(1, file_name, "", mask_set(MASKS[:1]))
    with pytest.raises(SohesError, match="names no file below"):
        FORMATS[name].write([record], tmp_path / "in/out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["yolo", "labelme", "id-maps"])
def test_no_image_takes_the_file_of_another(name: str, tmp_path: Path) -> None:
    two = [ImageRecord(i, file_name, "", mask_set(MASKS[:1])) for i, file_name in enumerate(("x/a.jpg", "x/A.png"))]
    with pytest.raises(SohesError, match=r"x/a\.jpg and x/A\.png would share"):
        FORMATS[name].write(two, tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_no_two_images_have_one_id(name: str, tmp_path: Path) -> None:
    two = [ImageRecord(1, file_name, "", mask_set(MASKS[:1])) for file_name in ("a.jpg", "b.jpg")]
    with pytest.raises(SohesError, match=r"image id 1 occurs twice, the second time for b\.jpg"):
        FORMATS[name].write(two, tmp_path / f"out{FORMATS[name].suffix}")


@pytest.mark.parametrize(("name", "out"), [("coco", "a.txt"), ("parquet", "a.json"), ("yolo", "a.json")])
def test_out_fits_the_format(name: str, out: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    with pytest.raises(SohesError, match="--out must name a"):
        check_out(name, tmp_path / out)


def test_yolo_alone_does_not_know_its_sizes(tmp_path: Path) -> None:
    FORMATS["yolo"].write(records(), tmp_path)
    with pytest.raises(SohesError, match="no image whose size is known"):
        list(read_records(tmp_path))


# ---------------------------------------------------------------- as CVAT reads COCO

# What CVAT's importer, Datumaro, takes from each object, with the types that COCO's page gives.
COCO_SCHEMA = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "categories": {"id": int, "name": str, "supercategory": str},
    "annotations": {
        "id": int, "image_id": int, "category_id": int, "iscrowd": int, "area": int, "bbox": list, "segmentation": dict,
    },
}  # fmt: skip


def test_coco_has_what_cvat_wants(tmp_path: Path) -> None:
    FORMATS["coco"].write(records(), tmp_path / "coco.json")
    content = json.loads((tmp_path / "coco.json").read_text())
    assert isinstance(content["info"], dict)
    assert isinstance(content["licenses"], list)
    for key, schema in COCO_SCHEMA.items():
        assert content[key]
        for item in content[key]:
            assert {name: type(item[name]) for name in schema} == schema
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        assert annotation["image_id"] in images
        assert annotation["category_id"] in categories
        assert annotation["iscrowd"] in (0, 1)
        assert len(annotation["bbox"]) == 4
        assert annotation["segmentation"].keys() == {"size", "counts"}
        assert isinstance(annotation["segmentation"]["counts"], str)
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(MASKS)
