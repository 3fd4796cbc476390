import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sohes.data.benchmarks.predictions import coco_json
from sohes.data.store.labels import export_coco
from sohes.errors import SohesError
from sohes.masks import decode, mask_set
from sohes.structures import ImageRecord

MASK = np.zeros((4, 6), bool)
MASK[1:3, 1:5] = True
SIZES = {7: (4, 6), 8: (4, 6)}


def rle(mask_HW: np.ndarray = MASK) -> dict:
    packed = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(mask_HW.shape), "counts": packed["counts"].decode()}


def detection(image_id: object = 7, score: object = 0.5, **more: object) -> dict:
    """As detectron2 writes it."""
    return {"image_id": image_id, "category_id": 0, "bbox": [1, 1, 4, 2], "score": score, "segmentation": rle(), **more}


def written(tmp_path: Path, content: object, **how: object) -> Path:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content, **how))
    return path


def test_a_results_list_becomes_one_record_an_image(tmp_path):
    path = written(tmp_path, [detection(8, 0.25), detection(7), detection(8, 0.75, segmentation=rle(~MASK))], indent=1)
    first, second = coco_json.read(path, SIZES)
    assert (first.image_id, first.masks.scores.tolist(), second.image_id) == (8, [0.25, 0.75], 7)
    np.testing.assert_array_equal(decode(first.masks), [MASK, ~MASK])
    assert first.file_name == ""
    assert (first.masks.parents == -1).all()


def test_scores_keep_the_files_precision(tmp_path):
    close = [0.5, 0.5 + 1e-12]
    (record,) = coco_json.read(written(tmp_path, [detection(score=score) for score in close]), SIZES)
    assert record.masks.scores.tolist() == close


def test_polygons_take_the_benchmarks_size(tmp_path):
    path = written(tmp_path, [detection(segmentation=[[1, 1, 5, 1, 5, 3, 1, 3]])])
    (record,) = coco_json.read(path, SIZES)
    np.testing.assert_array_equal(decode(record.masks), [MASK])
    with pytest.raises(SohesError, match="masks of image 9, which the benchmark does not have"):
        list(coco_json.read(written(tmp_path, [detection(9, segmentation=[[1, 1, 5, 1, 5, 3]])]), SIZES))


FRACTIONS = [[1 / 6, 1 / 4, 5 / 6, 1 / 4, 5 / 6, 3 / 4, 1 / 6, 3 / 4]]  # MASK


@pytest.mark.parametrize("annotated", [False, True])
def test_coordinates_as_fractions_are_read_and_told(annotated, tmp_path, capsys):
    found = [detection(segmentation=rle(~MASK)), detection(8, segmentation=FRACTIONS), detection(segmentation=rle())]

    def records():
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in SIZES]
        content = {"images": images, "annotations": found} if annotated else found
        return {record.image_id: record for record in coco_json.read(written(tmp_path, content), SIZES)}

    read = records()
    np.testing.assert_array_equal(decode(read[8].masks), [MASK])
    np.testing.assert_array_equal(decode(read[7].masks), [~MASK, MASK])  # in their order
    assert "results.json: no polygon reaches beyond 1, so their coordinates were read as" in capsys.readouterr().err
    found.append(detection(8, segmentation=[[1, 1, 5, 1, 5, 3, 1, 3]]))  # so the other one is a speck, in pixels
    np.testing.assert_array_equal(decode(records()[8].masks)[1], MASK)
    assert decode(records()[8].masks)[0].sum() < 2
    assert not capsys.readouterr().err


def test_ids_and_scores_of_other_types(tmp_path):
    (record,) = coco_json.read(written(tmp_path, [detection("7", "0.5"), detection(7.0, 1)]), SIZES)
    assert (record.image_id, record.masks.scores.tolist()) == (7, [0.5, 1.0])


def test_an_annotation_of_no_image_is_not_lost(tmp_path):
    export_coco([ImageRecord(7, "a.jpg", "", mask_set(MASK[None]))], tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 2, "image_id": 8})
    with pytest.raises(SohesError, match=r"lists no image of their image_id, such as annotation 2.*would lower AR"):
        list(coco_json.read(written(tmp_path, content), SIZES))


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (rle() | {"counts": "b'" + rle()["counts"] + "'"}, "letters that run lengths do not have"),
        (rle() | {"counts": rle()["counts"][:-1]}, "image 7 has no mask that can be read: its run lengths"),
        (rle() | {"counts": [9, 9, 10**6]}, "do not fill"),
        (rle() | {"size": [5, 6]}, r"\[5, 6\] is not the image's \[4, 6\]"),
        ([[1, 1, float("nan"), 3, 5, 5]], "no finite number"),
    ],
)
def test_an_unsound_mask_is_named_and_never_scored(segmentation, words, tmp_path):
    content = [detection(), detection(id=5, segmentation=segmentation)]
    with pytest.raises(SohesError, match=words):
        list(coco_json.read(written(tmp_path, content), SIZES))


@pytest.mark.parametrize("size", [[0, 6], ["x", 6], [2**40, 2**40]])
def test_a_size_that_no_image_has_is_named(size, tmp_path):
    with pytest.raises(SohesError, match="a mask of image 7 has no size that can be read"):
        list(coco_json.read(written(tmp_path, [detection(segmentation=rle() | {"size": size})]), SIZES))


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_a_list_is_read_alike_in_pieces_of_any_size(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(coco_json, "_CHUNK", chunk)
    items = [{"a": [1, {"b": "],[\u00e9"}], "c": i} for i in range(20)]
    assert list(coco_json.iter_list(written(tmp_path, items, indent=2, ensure_ascii=False))) == items
    assert list(coco_json.iter_list(written(tmp_path, []))) == []


def test_pseudo_labels_without_scores_keep_empty_images_and_their_names(tmp_path):
    """The annotation files that CutLER and HASSOD publish."""
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 6} for i in (7, 8)]
    annotations = [{"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": rle(), "area": 8.0}]
    content = {"info": {}, "licenses": [], "categories": [], "images": images, "annotations": annotations}
    first, second = coco_json.read(written(tmp_path, content), {})
    assert (first.file_name, first.masks.scores.tolist()) == ("7.jpg", [1.0])
    assert (second.file_name, len(second.masks)) == ("8.jpg", 0)


def test_our_own_export_comes_back_with_its_forest(tmp_path):
    drawn = np.zeros((3, 4, 6), bool)
    drawn[0], drawn[1, :2], drawn[2, :1] = True, True, True
    record = ImageRecord(7, "a.jpg", "", mask_set(drawn, scores=np.array([0.5, 0.25, 1.0]), parents=[-1, 0, 1]))
    export_coco([ImageRecord(3, "b.jpg", "", record.masks), record], tmp_path / "export.json")
    _, back = coco_json.read(tmp_path / "export.json", {})
    assert back.masks.rles == record.masks.rles
    assert back.masks.parents.tolist() == [-1, 0, 1]
    assert back.masks.scores.tolist() == [0.5, 0.25, 1.0]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([detection(score=None)], "a mask of image 7 has the score None"),
        ([detection(score=float("nan"))], "has the score nan"),
        ([detection(image_id="7.5")], "needs a whole number image_id"),
        ([5], "needs a whole number image_id"),
        ([detection(image_id=2**63)], "needs a whole number image_id"),
        ([detection(), detection(segmentation=None)], "there is no segmentation"),
        ([detection(), detection(segmentation=rle(MASK.T))], r"size \[6, 4\] is not the image's \[4, 6\]"),
        ([detection(id=1, parent=2), detection(id=2, parent=1)], "the masks of image 7 are not a forest"),
        ({"images": []}, "is not COCO JSON"),
        ("masks", "is not COCO JSON"),
    ],
)
def test_what_cannot_be_read_is_named(content, sentence, tmp_path):
    with pytest.raises(SohesError, match=sentence):
        list(coco_json.read(written(tmp_path, content), SIZES))


@pytest.mark.parametrize("text", ['[{"a": 1}', '[{"a": 1}, x]', "[", "{"])
def test_a_torn_file_is_one_sentence(text, tmp_path):
    (tmp_path / "torn.json").write_text(text)
    with pytest.raises(SohesError, match=r"is not valid JSON|needs a whole number image_id"):
        list(coco_json.read(tmp_path / "torn.json", SIZES))


def test_a_byte_order_mark_is_no_part_of_the_list(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([detection()]), "utf-8-sig")
    assert [record.image_id for record in coco_json.read(path, SIZES)] == [7]
