"""What is read of somebody's own annotations, and what is said of the rest."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks import own
from sohes.errors import SohesError
from sohes.masks import areas, decode

SIZE = (20, 30)
SQUARE = [4, 3, 16, 3, 16, 12, 4, 12]
DRAWN = np.zeros(SIZE, bool)
DRAWN[3:12, 4:16] = True


def written(folder: Path, *drawn: dict, images: list[dict] | None = None) -> Path:
    height, width = SIZE
    images = images or [{"id": 1, "file_name": "a.png", "height": height, "width": width}]
    found = [{"id": k, "image_id": 1, "iscrowd": 0, "segmentation": [SQUARE]} | one for k, one in enumerate(drawn, 1)]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": found}))
    return folder / "a.json"


def read(path: Path):
    return list(own.read(path))


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("written_id", [5, "5", 5.0])
@pytest.mark.parametrize("meant", [5, "5", 5.0, " 5"])
@pytest.mark.parametrize(("height", "width"), [(20, 30), ("20", 30.0)])
def test_ids_and_sizes_of_other_types(tmp_path, written_id, meant, height, width):
    image = {"id": written_id, "file_name": "a.png", "height": height, "width": width}
    (record,) = read(written(tmp_path, {"image_id": meant}, images=[image]))
    assert record.image_id == 5
    np.testing.assert_array_equal(decode(record.masks), [DRAWN])


@pytest.mark.parametrize(("flag", "crowds"), [("0", 0), (False, 0), (0.0, 0), (None, 0), ("1", 1), (True, 1), (1.0, 1)])
def test_flags_of_other_types(tmp_path, flag, crowds):
    (record,) = read(written(tmp_path, {"iscrowd": flag}, {}))
    assert record.masks.entities == 2 - crowds


def test_coordinates_as_fractions_are_read_and_told(tmp_path):
    inside = [[value / (30 if place % 2 == 0 else 20) for place, value in enumerate(SQUARE)]]
    path = written(tmp_path, {"segmentation": inside, "area": 0.18}, {"segmentation": [[0, 0, 1, 0, 1, 1, 0, 1]]})
    (record,) = read(path)
    np.testing.assert_array_equal(decode(record.masks), [DRAWN, np.ones(SIZE, bool)])
    assert np.isnan(record.masks.stated_areas).all()
    assert own.check(path) == (
        f"{path}: no polygon reaches beyond 1, so their coordinates were read as fractions of the image's sides",
    )
    (record,) = read(written(tmp_path, {"segmentation": inside}, {}))  # one in pixels: so are all
    assert areas(record.masks).tolist() == [1, 9 * 12]


@pytest.mark.parametrize(
    ("area", "stated"),
    [
        (99.5, 99.5),
        ("99.5", 99.5),
        (0, 0),
        (None, None),
        ("large", None),
        (-3, None),
        (float("nan"), None),
        (1e12, None),
    ],
)
def test_the_stated_area_is_kept_where_it_is_one(tmp_path, area, stated):
    (record,) = read(written(tmp_path, {"area": area}))
    assert record.masks.stated_areas.tolist() == pytest.approx([np.nan if stated is None else stated], nan_ok=True)


# ---------------------------------------------------------------- left out, and told


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    path = written(
        tmp_path,
        {},
        {"segmentation": []},
        {"segmentation": [[5, 5, 6, 6]]},
        {"image_id": 77},
        {"segmentation": {"size": list(SIZE), "counts": [600]}},
        {"image_id": None},
        {"image_id": "one"},
    )
    assert own.check(path) == (
        f"{path}: 3 left out: the file lists no image of their image_id, such as annotation 4",
        f"{path}: 3 left out: no pixel in their masks, such as annotation 2 of a.png",
    )


@pytest.mark.parametrize(
    "drawn",
    [
        [{"segmentation": []}, {"image_id": 9}],
        [{"iscrowd": 1}],
        [{"image_id": "a.png"}],
    ],
)
def test_nothing_usable_is_an_error(tmp_path, drawn):
    with pytest.raises(SohesError, match=f"none of {len(drawn)} annotations can be used: .*a.json: "):
        own.check(written(tmp_path, *drawn))


def test_no_annotation_at_all_is_an_error(tmp_path):
    with pytest.raises(SohesError, match="has no annotation"):
        own.check(written(tmp_path))


def test_held_out_images_without_a_mask_are_an_error(tmp_path):
    images = [{"id": k, "file_name": f"{k}.png", "height": 20, "width": 30} for k in (1, 2, 3)]
    path = written(tmp_path, {}, images=images)
    assert own.check(path, {1, 2}) == ()
    with pytest.raises(SohesError, match="none of the 2 held-out images has a mask"):
        own.check(path, {2, 3})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"segmentation": [[1, 1, 9, None, 9, 9]]}, "annotation 2 of a.png has no mask that can be read: a coordinate"),
        ({"segmentation": {"size": list(SIZE), "counts": "b'abc'"}}, "annotation 2 of a.png .* run lengths"),
        ({"segmentation": {"size": list(SIZE), "counts": [9, 9, 10**6]}}, "annotation 2 of a.png .* do not fill"),
        ({"iscrowd": "perhaps"}, "iscrowd of annotation 2 of a.png"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path, change, words):
    with pytest.raises(SohesError, match=words):
        own.check(written(tmp_path, {}, change, {}))


# ---------------------------------------------------------------- panoptic maps

IDS = np.zeros(SIZE, np.int64)
IDS[3:12, 4:16], IDS[15:, :] = 7, 200


def panoptic(folder: Path, png: Image.Image, *, ids: tuple = (7, 200), **changes: object) -> Path:
    (folder / "p").mkdir(exist_ok=True)
    png.save(folder / "p/a.png")
    image = {"id": 1, "file_name": "a.jpg", "height": 20, "width": 30}
    segments = [{"id": number, "iscrowd": 0, "category_id": 1} for number in ids]
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments} | changes
    (folder / "p.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    return folder / "p.json"


def coloured(ids_HW: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([ids_HW % 256, ids_HW // 256 % 256, ids_HW // 65536], 2).astype(np.uint8))


def palette_of_places(ids_HW: np.ndarray) -> Image.Image:
    png = Image.fromarray(ids_HW.astype(np.uint8)).convert("P")
    png.putpalette([value * 37 % 256 for value in range(768)])
    return png


@pytest.mark.parametrize(
    "draw",
    [
        coloured,
        lambda ids: coloured(ids).convert("RGBA"),
        lambda ids: coloured(ids).quantize(8),
        lambda ids: Image.fromarray(ids.astype(np.uint8)),
        lambda ids: Image.fromarray(ids.astype(np.uint8)).convert("LA"),
        lambda ids: Image.fromarray(ids.astype(np.uint16)),
        palette_of_places,
    ],
    ids=["RGB", "RGBA", "palette of colours", "L", "LA", "16 bits", "palette of places"],
)
@pytest.mark.parametrize("ids", [(7, 200), ("7", 200.0)])
def test_panoptic_maps_of_all_modes(tmp_path, draw, ids):
    path = panoptic(tmp_path, draw(IDS), ids=ids)
    (record,) = read(path)
    np.testing.assert_array_equal(decode(record.masks), [IDS == 7, IDS == 200])
    assert own.check(path) == ()


def test_segments_without_pixels_and_pixels_without_segments_are_counted(tmp_path):
    path = panoptic(tmp_path, coloured(IDS), ids=(7, 9))
    assert own.check(path) == (
        f"{path}: 1 left out: segments_info lacks an id that the PNG has, such as one of a.jpg",
        f"{path}: 1 left out: no pixel in their masks, such as annotation 9 of a.jpg",
    )
    with pytest.raises(SohesError, match="none of 1 annotations can be used"):
        own.check(panoptic(tmp_path, coloured(IDS), ids=(8, 9)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"segments_info": None}, "has no segments_info"),
        ({"segments_info": [3]}, "has no segments_info"),
        ({"segments_info": [{"id": "x"}]}, "whole number id"),
        ({"file_name": 3}, "names no PNG"),
        ({"file_name": "b.png"}, "there is no such file"),
    ],
)
def test_a_broken_panoptic_annotation_is_named(tmp_path, changes, words):
    with pytest.raises(SohesError, match=words):
        own.check(panoptic(tmp_path, coloured(IDS), **changes))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_a_broken_png_is_named(tmp_path, data):
    path = panoptic(tmp_path, coloured(IDS))
    (tmp_path / "p/a.png").write_bytes(data)
    with pytest.raises(SohesError, match=r"a\.png cannot be read"):
        own.check(path)
