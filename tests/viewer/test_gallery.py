import json

import cv2
import numpy as np
import pytest

from sohes import masks
from sohes.data.store.decode import decode_image
from sohes.errors import SohesError
from sohes.evaluate.result import Result
from sohes.viewer.gallery import Picture, ResultGallery, as_shown, is_result, read_result

DRAWN = np.zeros((2, 8, 10), bool)
DRAWN[0, 1:5, 1:7] = True
DRAWN[1, 2:4, 2:5] = True
FOUND = masks.mask_set(DRAWN, scores=np.array([0.5, 0.25]), parents=np.array([-1, 0]))
RAGGED = (  # a list of scores where one is due
    '{"image": {"height": 1, "width": 1}, "annotations": '
    '[{"id": 1, "score": [0, 1], "parent_id": null, "segmentation": {"counts": "01"}}]}'
)


@pytest.fixture
def saved(tmp_path):
    return Result(np.full((8, 10, 3), 90, np.uint8), FOUND).save(tmp_path, "cat")


def test_a_saved_result_is_read_back(saved):
    found = read_result(saved)
    assert np.array_equal(masks.decode(found), DRAWN)
    assert found.scores.tolist() == [0.5, 0.25]
    assert found.parents.tolist() == [-1, 0]
    gallery = ResultGallery([saved])
    assert gallery.names == ["cat"]
    picture = gallery.read(0)
    assert picture.image.shape == (8, 10, 3)
    assert list(picture.layers) == ["masks"]


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"image": {}}', '{"image": {"height": 1}, "annotations": [1]}', RAGGED]
)
def test_what_is_no_result_is_one_sentence(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(SohesError, match="is not a result"):
        read_result(tmp_path / "x.json")


def test_parents_in_a_circle_are_one_sentence_that_names_the_file(saved):
    content = json.loads(saved.read_text())
    content["annotations"][0]["parent_id"] = content["annotations"][1]["id"]
    saved.write_text(json.dumps(content))
    with pytest.raises(SohesError, match=r"cat\.json is not a result .*cycle"):
        read_result(saved)


def test_a_result_has_its_photograph_beside_it(saved):
    assert is_result(saved)
    saved.with_name("cat.photo.jpg").unlink()
    assert not is_result(saved)
    with pytest.raises(SohesError, match="no photograph at"):
        ResultGallery([saved]).read(0)


def test_the_page_gets_the_forest_and_pictures_of_a_bounded_size():
    drawn = np.zeros((1, 1000, 2048), bool)
    drawn[0, 100:200, 1024:] = True
    photo, content = as_shown(Picture(np.zeros((1000, 2048, 3), np.uint8), {"masks": masks.mask_set(drawn)}))
    assert photo[:2] == b"\xff\xd8"
    assert (content["height"], content["width"]) == (500, 1024)
    assert content["layers"][0]["masks"][0]["area"] == 50 * 512
    _, content = as_shown(Picture(np.zeros((8, 10, 3), np.uint8), {"explore": FOUND}))
    (layer,) = json.loads(json.dumps(content))["layers"]
    assert layer["name"] == "explore"
    assert [(m["parent"], m["level"], m["area"]) for m in layer["masks"]] == [(-1, 0, 24), (0, 1, 6)]
    assert layer["masks"][0]["counts"] == FOUND.rles[0].decode()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_photograph_is_reduced_once_however_many_layers_it_has(count, monkeypatch):
    resized = []

    def resize(image, *size, **options):
        resized.append(image.shape)
        return original(image, *size, **options)

    original = cv2.resize
    monkeypatch.setattr(cv2, "resize", resize)
    found = masks.mask_set(np.ones((1, 100, 2048), bool))
    photo, content = as_shown(Picture(np.zeros((100, 2048, 3), np.uint8), {str(k): found for k in range(count)}))
    assert resized.count((100, 2048, 3)) == 1
    assert decode_image(photo, max_megapixels=1, apply_exif=False).shape == (50, 1024, 3)
    assert (content["height"], content["width"]) == (50, 1024)
    assert [layer["masks"][0]["area"] for layer in content["layers"]] == [50 * 1024] * count


def test_masks_of_another_size_are_refused():
    with pytest.raises(SohesError, match="10 x 8 pixels, the photograph is not"):
        as_shown(Picture(np.zeros((10, 8, 3), np.uint8), {"masks": FOUND}))
