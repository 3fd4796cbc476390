import json

import numpy as np
import pytest

from sohes.data.benchmarks.predictions.read import DETECTRON2, match, read_predictions
from sohes.data.exchange import yolo
from sohes.data.store.labels import export_coco, export_sa1b, write_shard
from sohes.errors import SohesError
from sohes.masks import coco_rles, mask_set
from sohes.structures import ImageRecord


def record(image_id: int, file_name: str) -> ImageRecord:
    return ImageRecord(image_id, file_name, "", mask_set(np.eye(5, dtype=bool)[None]))


TRUTH = [record(139, "val2017/000139.jpg"), record(285, "val2017/000285.jpg")]


def ids(predictions) -> list[int]:
    return [found.image_id for found in predictions]


def test_every_format_is_told_by_what_the_path_holds(tmp_path):
    results = [
        {"image_id": r.image_id, "score": 1.0, "segmentation": {**rle, "counts": rle["counts"].decode()}}
        for r in TRUTH
        for rle in coco_rles(r.masks)
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / DETECTRON2).write_text(json.dumps(results))
    (tmp_path / "inference/config.json").write_text("{}")
    export_coco(TRUTH, tmp_path / "annotated.json")
    export_sa1b(TRUTH, tmp_path / "sa1b")
    write_shard(tmp_path / "shards/shard-0.parquet", TRUTH)
    for name in ("results.json", "inference", "annotated.json", "sa1b", "shards", "shards/shard-0.parquet"):
        found = list(read_predictions([tmp_path / name], TRUTH))
        assert ids(found) == [139, 285], name
        assert [r.masks.rles for r in found] == [r.masks.rles for r in TRUTH], name


@pytest.mark.parametrize("text", ["", "trained on Monday\n", "2026\n", "sch\u00f6n\n"])
def test_a_text_beside_json_makes_no_folder_of_yolo_labels(tmp_path, text):
    export_sa1b(TRUTH, tmp_path)
    (tmp_path / "notes.txt").write_bytes(text.encode("latin-1"))
    assert ids(read_predictions([tmp_path], TRUTH)) == [139, 285]


def test_a_json_beside_yolo_labels_makes_no_folder_of_json(tmp_path):
    yolo.write(TRUTH, tmp_path)
    (tmp_path / "labels/val2017/000139.txt").write_text("")
    (tmp_path / "labels/meta.json").write_text("{}")
    assert ids(read_predictions([tmp_path], TRUTH)) == [139, 285]


def test_several_folders_are_one_set_of_predictions(tmp_path):
    """Such as the pseudo-labels of the training images and the predictions on the held-out ones."""
    for place, one in enumerate(TRUTH):
        write_shard(tmp_path / f"{place}/shard.parquet", [one])
    assert ids(read_predictions([tmp_path / "1", tmp_path / "0"], TRUTH)) == [285, 139]


def test_file_names_outrank_ids_and_their_last_part_is_enough():
    numbered_anew = [record(1, "000285.png"), record(2, "elsewhere/000139.jpg")]
    assert ids(match(numbered_anew, TRUTH)) == [285, 139]
    assert ids(match([record(285, "")], TRUTH)) == [285]


def test_equal_names_in_two_folders_are_told_apart_by_the_folder_only():
    truth = [record(1, "one/a.jpg"), record(2, "two/a.jpg")]
    assert ids(match([record(9, "two/a.jpg")], truth)) == [2]
    with pytest.raises(SohesError, match=r"hold a\.jpg, which is the name of several of the benchmark's images"):
        list(match([record(1, "a.jpg")], truth))


@pytest.mark.parametrize(
    "names",
    [
        ("cat.jpg", "cat.png"),
        ("a/cat.jpg", "a/cat.JPG"),
        ("v1.0", "v1.1"),
        ("v1.0.jpg", "v1.1.jpg"),
        ("cat", "cat.jpg"),
    ],
)
def test_names_that_differ_in_what_follows_a_dot_are_of_different_images(names, capsys):
    truth = [record(number, name) for number, name in enumerate(names, 1)]
    assert ids(match(truth, truth)) == [1, 2]
    assert ids(match(truth[:1], truth)) == [1]
    assert capsys.readouterr().err == ""


def test_another_suffix_is_overlooked_unless_several_images_share_the_rest():
    truth = [record(1, "v1.0.jpg"), record(2, "v1.1.jpg"), record(3, "a/cat.jpg"), record(4, "a/cat.png")]
    assert ids(match([record(9, "v1.1"), record(9, "x/v1.0.PNG")], truth)) == [2, 1]
    for name in ("a/cat.webp", "cat", "A/CAT.webp"):
        with pytest.raises(SohesError, match="predict the benchmark's own images"):
            list(match([record(1, name)], truth))
    with pytest.raises(SohesError, match="the name of several"):
        list(match([record(1, "a/cat")], truth))


def test_names_of_another_tool_are_matched_and_told(capsys):
    truth = [record(1, "one/a b.jpg"), record(2, "two/a b.jpg"), record(3, "two/Ü.jpg")]
    written = [record(9, "C:\\data\\TWO\\A B.png"), record(9, "/x/one/a%20b"), record(9, "u\u0308.png")]
    assert ids(match(written, truth)) == [2, 1, 3]
    assert "3 predictions have other names than the benchmark, such as C:" in capsys.readouterr().err
    assert ids(match(truth, truth)) == [1, 2, 3]
    assert capsys.readouterr().err == ""
    for name in ("/", ".", "..", "A%20B.png"):
        with pytest.raises(SohesError, match="predict the benchmark's own images"):
            list(match([record(1, name)], truth))


def test_an_image_that_the_benchmark_lacks_is_named():
    with pytest.raises(SohesError, match=r"hold cat\.jpg, which the benchmark lacks"):
        list(match([record(139, "cat.jpg")], TRUTH))
    with pytest.raises(SohesError, match="hold image 7, which the benchmark lacks"):
        list(match([record(7, "")], TRUTH))


def test_a_path_without_predictions_is_named(tmp_path):
    with pytest.raises(SohesError, match=r"there are no predictions at .*absent"):
        list(read_predictions([tmp_path / "absent"], TRUTH))
    with pytest.raises(SohesError, match="holds no predictions that can be read"):
        list(read_predictions([tmp_path], TRUTH))
