import base64
import json
import pickle
import re
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from sohes import masks
from sohes.errors import SohesError
from sohes.evaluate.result import LONGEST, Result

DRAWN = np.zeros((3, 6, 8), bool)
DRAWN[0, 1:5, 1:7] = True  # a whole,
DRAWN[1, 2:4, 2:5] = True  # its part,
DRAWN[2, 3, 3] = True  # and the part's part
FOUND = masks.mask_set(DRAWN, scores=np.array([0.9, 0.8, 0.7]), parents=np.array([-1, 0, 1]), sources="correct")


@pytest.fixture
def result() -> Result:
    return Result(np.full((6, 8, 3), 90, np.uint8), FOUND)


def test_it_says_what_was_found(result):
    assert len(result) == 3
    assert np.array_equal(result.masks, DRAWN)
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert result.parents.tolist() == [-1, 0, 1]
    assert result.levels.tolist() == [0, 1, 2]
    assert result.areas.tolist() == [24, 6, 1]
    assert result.boxes_xywh.tolist() == [[1, 1, 6, 4], [2, 2, 3, 2], [3, 3, 1, 1]]


def test_a_pickle_holds_the_run_lengths_and_not_the_unpacked_masks(result):
    before = len(pickle.dumps(result))
    assert result.masks.any()
    assert len(pickle.dumps(result)) == before
    again = pickle.loads(pickle.dumps(result))
    assert np.array_equal(again.image, result.image)
    assert np.array_equal(again.masks, DRAWN)


def test_pycocotools_reads_its_coco(result, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(result.to_coco("cat.jpg", image_id=7)))
    coco = COCO(tmp_path / "coco.json")
    assert coco.loadImgs(7)[0]["file_name"] == "cat.jpg"
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert [a["id"] for a in annotations] == [1, 2, 3]
    assert [a["parent_id"] for a in annotations] == [None, 1, 2]
    assert all(np.array_equal(coco.annToMask(a), m) for a, m in zip(annotations, DRAWN, strict=True))


def test_supervision_gets_corners_masks_and_the_forest(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=SimpleNamespace))
    detections = result.to_supervision()
    assert detections.xyxy.tolist() == [[1, 1, 7, 5], [2, 2, 5, 4], [3, 3, 4, 4]]
    assert np.array_equal(detections.mask, DRAWN)
    assert detections.data["parent"].tolist() == [-1, 0, 1]
    assert detections.data["level"].tolist() == [0, 1, 2]


def test_without_supervision_the_remedy_is_named(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(SohesError, match="pip install supervision"):
        result.to_supervision()


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("import cv3_of_supervision", ModuleNotFoundError, "cv3_of_supervision"),
        ("from numpy import no_such_name", ImportError, "no_such_name"),
        ("raise ImportError('libGL.so.1: cannot open shared object file')", ImportError, "libGL"),
    ],
)
def test_a_supervision_that_does_not_load_says_why_itself(result, tmp_path, monkeypatch, source, error, words):
    (tmp_path / "supervision.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "supervision", raising=False)
    with pytest.raises(error, match=words):
        result.to_supervision()


@pytest.mark.parametrize("size", [(6, 8), (30, 2000)])
def test_a_notebook_shows_a_picture_and_how_many_masks(size):
    image = np.full((*size, 3), 90, np.uint8)
    found = masks.mask_set(np.ones((2, *size), bool), parents=np.array([-1, 0]))
    result = Result(image, found)
    as_png = cv2.imdecode(np.frombuffer(result._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    html = result._repr_html_()
    (data,) = re.findall(r'src="data:image/webp;base64,([^"]+)"', html)
    as_webp = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert as_png.shape == as_webp.shape
    assert max(as_png.shape) == min(800, max(size))
    assert (as_png != 90).any()
    assert "2 masks: 1 whole entities and 1 parts" in html


def test_a_notebook_shows_a_photograph_in_which_nothing_was_found():
    nothing = Result(np.full((6, 8, 3), 90, np.uint8), masks.empty_mask_set(6, 8))
    assert "0 masks" in nothing._repr_html_()
    assert nothing._repr_png_().startswith(b"\x89PNG")


def test_a_plot_of_a_level_tints_that_level_only(result):
    drawn = result.plot(level=1)
    assert np.array_equal(np.any(drawn != result.image, axis=2), DRAWN[1])


def test_it_saves_json_and_pictures(result, tmp_path):
    written = result.save(tmp_path / "new", "cat", file_name="cat.jpeg")
    assert written == tmp_path / "new/cat.json"
    saved = json.loads(written.read_text())
    assert saved["image"] == {"file_name": "cat.jpeg", "height": 6, "width": 8}
    assert [a["parent_id"] for a in saved["annotations"]] == [None, 1, 2]
    for suffix, height in (("photo.jpg", 6), ("overlay.webp", 6), ("levels.webp", 6 + 5)):  # of a caption
        assert cv2.imread(str(tmp_path / f"new/cat.{suffix}")).shape[0] == height


def test_webp_pictures_are_of_a_bounded_size_and_png_has_every_pixel(tmp_path):
    large = Result(np.full((20, 2 * LONGEST, 3), 90, np.uint8), masks.empty_mask_set(20, 2 * LONGEST))
    large.save(tmp_path)
    assert cv2.imread(str(tmp_path / "photo.overlay.webp")).shape == (10, LONGEST, 3)
    large.save(tmp_path, picture_format="png")
    assert np.array_equal(cv2.imread(str(tmp_path / "photo.overlay.png")), large.image)
    assert cv2.imread(str(tmp_path / "photo.photo.jpg")).shape == large.image.shape  # as the JSON says
    names = {path.name for path in tmp_path.iterdir()}  # nothing is left of the first call that the second contradicts
    assert names == {"photo.json", "photo.photo.jpg", "photo.overlay.png", "photo.levels.png"}


def test_an_empty_result_saves_too(tmp_path):
    nothing = Result(np.zeros((6, 8, 3), np.uint8), masks.empty_mask_set(6, 8))
    assert json.loads(nothing.save(tmp_path).read_text())["annotations"] == []
    assert nothing.to_coco()["annotations"] == []
    assert np.array_equal(nothing.plot(), nothing.image)


def test_a_picture_of_another_kind_is_refused(result, tmp_path):
    with pytest.raises(SohesError, match=r"pictures are webp or png \(got jpg\)"):
        result.save(tmp_path, picture_format="jpg")
    assert not list(tmp_path.iterdir())
