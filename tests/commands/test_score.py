import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sohes.commands import score
from sohes.data.benchmarks import coco_panoptic
from sohes.data.exchange.formats import FORMATS
from sohes.data.store.labels import export_coco, export_sa1b, write_shard
from sohes.errors import SohesError
from sohes.masks import mask_set
from sohes.structures import ImageRecord


def scene(image_id: int, *, count: int = 3, shift: int = 0) -> ImageRecord:
    drawn = np.zeros((count, 8, 40), bool)
    for i in range(count):
        drawn[i, :, 10 * i + shift : 10 * i + 8] = True
    return ImageRecord(image_id, f"{image_id:012}.jpg", "", mask_set(drawn, scores=np.linspace(0.9, 0.1, count)))


TRUTH = [scene(i) for i in (139, 285, 632, 724)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's val2017, in the official folder."""
    export_coco(TRUTH, tmp_path / "coco/annotations/instances_val2017.json")
    return tmp_path / "coco"


def run(root: Path, *predictions: Path, benchmark: str = "coco", **options: object) -> tuple[dict, str]:
    """What is written, and what is printed on a wide terminal."""
    console = Console(width=160, record=True)
    with patch.object(score, "Console", return_value=console):
        result = score.score(list(predictions), benchmark=benchmark, root=root, **options)
    return result, console.export_text()


def shards(folder: Path, records: list[ImageRecord]) -> Path:
    write_shard(folder / "shard-00000.parquet", records)
    return folder


def test_truth_as_its_own_prediction_is_100_in_every_format(root, tmp_path):
    shards(tmp_path / "parquet", TRUTH)
    export_sa1b(TRUTH, tmp_path / "sa1b")
    exported = [tmp_path / f"theirs/{name}{format.suffix}" for name, format in FORMATS.items()]
    for out, format in zip(exported, FORMATS.values(), strict=True):
        format.write(TRUTH, out)
    for path in (tmp_path / "parquet", tmp_path / "sa1b", root / "annotations/instances_val2017.json", *exported):
        result, _ = run(root, path)
        assert (result["AR"], result["images"]) == (100, 4)


def test_measured_and_published_rows_are_never_mixed_up(root, tmp_path):
    _, told = run(root, shards(tmp_path / "ours", TRUTH), label="ours")
    lines = [line for line in told.splitlines() if line.startswith("│")]
    assert "measured here" in lines[0]
    assert lines[0].split()[1] == "ours"
    published = {line.split("│")[1].strip(): line for line in lines[1:]}
    assert all("published: " in line for line in published.values())
    assert "SOHES, ICLR 2024, table 4" in published["SOHES"]
    assert "30.5" in published["SOHES"]


def test_a_missing_image_is_named_or_counted_as_empty_when_that_is_asked_for(root, tmp_path):
    path = shards(tmp_path / "ours", TRUTH[:3])
    with pytest.raises(SohesError, match=r"lack 1 of 4 images .*\(image 724 = 000000000724\.jpg\)"):
        run(root, path)
    result, told = run(root, path, missing_as_empty=True)
    assert (result["AR"], result["images_counted_as_empty"]) == (75, 1)
    assert "1 of 4 images had no prediction and count as empty" in told


def test_two_runs_are_compared_image_by_image(root, tmp_path):
    worse = [scene(139, count=2), scene(285, count=1), scene(632), scene(724, shift=2)]
    before = tmp_path / "before.json"
    run(root, shards(tmp_path / "worse", worse), json_out=before, label="worse")
    saved = json.loads(before.read_text())
    assert saved["per_image"]["285"] == pytest.approx(100 / 3)
    result, told = run(root, shards(tmp_path / "ours", TRUTH), compare=before)
    gain = result["AR"] - saved["AR"]
    assert f"AR {gain:+.2f} points against worse" in told
    assert "zero lies outside it" in told
    assert "measured before" in told
    _, told = run(root, tmp_path / "worse", compare=before)
    assert "interval +0.00 to +0.00" in told
    assert "zero lies inside it" in told


def test_only_results_on_the_same_benchmark_are_compared(root, tmp_path):
    path = shards(tmp_path / "ours", TRUTH)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SohesError, match=r"other\.json is no result of `sohes score --json`"):
        run(root, path, compare=tmp_path / "other.json")
    result, _ = run(root, path)
    (tmp_path / "other.json").write_text(json.dumps({**result, "benchmark": "lvis"}))
    with pytest.raises(SohesError, match="was scored on lvis, not on coco"):
        run(root, path, compare=tmp_path / "other.json")


def test_only_results_with_the_same_cap_are_compared(root, tmp_path):
    path, before = shards(tmp_path / "ours", TRUTH), tmp_path / "before.json"
    run(root, path, max_masks=1, json_out=before)
    with pytest.raises(SohesError, match=r"at most 1 masks each, not 1000: compare runs with the same --max-masks"):
        run(root, path, compare=before)
    _, told = run(root, path, max_masks=1, compare=before)
    assert "interval +0.00 to +0.00" in told
    result = json.loads(before.read_text())
    del result["max_masks"]
    before.write_text(json.dumps(result))
    with pytest.raises(SohesError, match=r"before\.json is no result of `sohes score --json`"):
        run(root, path, compare=before)


def test_the_cap_of_masks_is_ours_to_choose_and_another_than_the_published_one_is_told(root, tmp_path):
    path, words = shards(tmp_path / "ours", TRUTH), "published figures are for at most 1000 masks each"
    result, told = run(root, path, max_masks=1)
    assert result["AR"] == pytest.approx(100 / 3)
    assert words in told
    assert words not in run(root, path)[1]


def test_the_full_release_of_ade20k_has_no_published_rows(tmp_path):
    folder = tmp_path / "ade/ADE20K_2021_17_01/images/ADE/validation/a/b"
    folder.mkdir(parents=True)
    whole = {"id": 0, "instance_mask": "whole.png", "parts": {"ispartof": []}}
    content = {"filename": "ADE_val_00000001.jpg", "imsize": [8, 40, 3], "object": [whole]}
    (folder / "ADE_val_00000001.json").write_text(json.dumps({"annotation": content}))
    Image.fromarray(np.full((8, 40), 255, np.uint8)).save(folder / "whole.png")
    empty = ImageRecord(1, "ADE_val_00000001.jpg", "", mask_set(np.zeros((0, 8, 40), bool)))
    _, told = run(tmp_path / "ade", shards(tmp_path / "ours", [empty]), benchmark="ade20k")
    assert "published:" not in told
    assert "no published figures on this set" in told


def test_real_photographs_in_another_order_and_split_in_two(shared_data, tmp_path):
    folder = shared_data / "coco_panoptic_100"
    truth = list(coco_panoptic.read_benchmark(folder))
    paths = [shards(tmp_path / "late", truth[40:][::-1]), shards(tmp_path / "early", truth[:40])]
    result, told = run(folder, *paths, benchmark="coco_panoptic")
    assert result["AR"] == 100
    assert "no published figures" in told


@pytest.mark.parametrize("change", [{"annotations": []}, {"iscrowd": "1"}])
def test_a_benchmark_with_nothing_to_find_is_a_sentence(root, tmp_path, change):
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content |= {"annotations": [a | change for a in content["annotations"]]} | change
    path.write_text(json.dumps(content))
    with pytest.raises(SohesError, match=r"nothing can be scored|can be used"):
        run(root, shards(tmp_path / "ours", TRUTH))
