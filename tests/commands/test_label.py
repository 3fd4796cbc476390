from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sohes.commands import label as labelling
from sohes.data.benchmarks.predictions.read import read_predictions
from sohes.data.scenes.render import render_scene
from sohes.data.store.decode import decode_image
from sohes.data.store.labels import export_coco, read_shard
from sohes.errors import SohesError
from sohes.explore import label_images
from sohes.explore.label_image import label_image
from sohes.explore.maps import make_extractor
from sohes.params import Params


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "1")


@pytest.fixture
def params(tiny_params: dict) -> Params:
    tiny_params["explore"] |= {"features": "handmade", "max_rejected_fraction": 0.5}
    return Params.model_validate(tiny_params)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """18 scenes, two of them in a folder of the same names, and what people's folders hold beside photographs."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for i in range(16):
        Image.fromarray(render_scene(i, size=48, seed=0).image_HW3).save(folder / f"{i:02d}.png")
    for i in range(2):
        Image.fromarray(render_scene(20 + i, size=48, seed=0).image_HW3[:, :40]).save(folder / f"deep/{i:02d}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "empty.png").touch()
    Image.new("RGB", (4, 200)).save(folder / "thin.png")
    (folder / "notes.txt").write_text("no image, and does not say so")
    return folder


def label(params: Params, photos: Path, out: Path, **options: object) -> list[str]:
    """The lines that the command prints."""
    file = photos.with_name("mine.yaml")
    file.write_text(yaml.safe_dump(params.model_dump(mode="json")))
    with redirect_stdout(io.StringIO()) as told:
        labelling.label(photos, out, params=file, **options)
    return told.getvalue().splitlines()


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_photograph_is_labelled_as_phase_one_labels_it_or_named(params, photos, tmp_path):
    told = label(params, photos, tmp_path / "out/labels.parquet")
    assert "1 left out, because their names" in told[0]
    assert "18 photographs" in told[-1]
    assert "3 rejected" in told[-1]
    assert "label-free: yes" in told[-1]
    records = read_shard(tmp_path / "out/labels.parquet")
    assert [record.file_name for record in records] == [f"{i:02d}.png" for i in range(16)] + [
        "deep/00.png", "deep/01.png",
    ]  # fmt: skip
    extract = make_extractor(params.explore, Path())
    for record in (records[3], records[-1]):
        image = decode_image((photos / record.file_name).read_bytes(), max_megapixels=1, apply_exif=True)
        assert record.masks.rles == label_image(image, extract, params.explore).rles
    rejected = [json.loads(line) for line in (tmp_path / "out/labels.rejected.jsonl").read_text().splitlines()]
    assert [image["file_name"] for image in rejected] == ["broken.jpg", "empty.png", "thin.png"]
    assert "the file is empty" in rejected[1]["reason"]
    manifest = json.loads((tmp_path / "out/labels.manifest.json").read_text())
    assert (manifest["images"], manifest["rejected"], manifest["label_free"]) == (18, 3, True)
    assert manifest["masks"] == sum(len(record.masks) for record in records)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


def test_the_file_is_read_by_score_and_export(params, photos, tmp_path):
    label(params, photos, tmp_path / "labels.parquet")
    records = read_shard(tmp_path / "labels.parquet")
    assert [r.image_id for r in read_predictions([tmp_path / "labels.parquet"], records)] == [
        record.image_id for record in records
    ]
    export_coco(tmp_path / "labels.parquet", tmp_path / "labels.json")
    assert len(json.loads((tmp_path / "labels.json").read_text())["images"]) == 18


def test_it_writes_the_formats_of_export(params, photos, tmp_path):
    label(params, photos, tmp_path / "labels.parquet")
    export_coco(tmp_path / "labels.parquet", tmp_path / "exported.json")
    label(params, photos, tmp_path / "labels.json", format="coco")
    assert (tmp_path / "labels.json").read_bytes() == (tmp_path / "exported.json").read_bytes()
    label(params, photos, tmp_path / "yolo", format="yolo")
    assert len(list((tmp_path / "yolo/labels").rglob("*.txt"))) == 18
    with pytest.raises(SohesError, match="--out must name a folder for --format yolo"):
        label(params, photos, tmp_path / "labels.json", format="yolo")


@pytest.mark.parametrize("format", ["yolo", "labelme", "id-maps"])
def test_photographs_that_would_share_a_file_are_named_before_any_is_labelled(
    format, params, photos, tmp_path, monkeypatch
):
    (photos / "03.jpg").write_bytes((photos / "03.png").read_bytes())
    monkeypatch.setattr(labelling, "label_images", lambda *_: pytest.fail("labelled"))
    with pytest.raises(SohesError, match=r"03\.jpg and 03\.png would share .*rename one, or take coco"):
        label(params, photos, tmp_path / "out", format=format)


@pytest.mark.slow
def test_a_pool_gives_the_same_bytes(params, photos, tmp_path, monkeypatch):
    label(params, photos, tmp_path / "one/labels.parquet")
    monkeypatch.setenv("SOHES_WORKERS", "2")
    label(params, photos, tmp_path / "two/labels.parquet")
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_what_was_stopped_goes_on_and_changed_photographs_and_params_are_labelled_anew(
    params, photos, tmp_path, monkeypatch
):
    label(params, photos, tmp_path / "undisturbed/labels.parquet")
    original, seen = label_images.label_image, []

    def count(image: np.ndarray, *arguments: object):
        if len(seen) == 11:
            raise OSError("the power failed")
        seen.append(image)
        return original(image, *arguments)

    monkeypatch.setattr(label_images, "label_image", count)
    out = tmp_path / "out/labels.parquet"
    with pytest.raises(OSError, match="power"):
        label(params, photos, out)
    assert not out.exists()
    monkeypatch.setattr(label_images, "label_image", lambda *a: seen.append(a[0]) or original(*a))
    seen.clear()
    assert label(params, photos, out)[1] == "1 of 3 parts were finished before"
    assert len(seen) == 18 - 8
    assert written(out.parent) == written(tmp_path / "undisturbed")

    monkeypatch.setattr(label_images, "label_image", count)
    seen.clear()
    with pytest.raises(OSError, match="power"):
        label(params, photos, out)
    assert written(out.parent) == written(tmp_path / "undisturbed")  # the old labels stay until new ones are whole
    (photos / "00.png").write_bytes((photos / "15.png").read_bytes())
    monkeypatch.setattr(label_images, "label_image", lambda *a: seen.append(a[0]) or original(*a))
    seen.clear()
    other = params.model_copy(update={"explore": params.explore.model_copy(update={"theta_cover": 0.8})})
    label(other, photos, out)
    assert len(seen) == 18
    records = read_shard(out)
    assert records[0].masks.rles == records[15].masks.rles


def test_other_weights_of_a_refiner_are_other_labels(params, photos, tmp_path, monkeypatch):
    weights, original, seen = tmp_path / "crm", label_images.label_image, []
    monkeypatch.setenv("SOHES_CRM", str(weights))
    monkeypatch.setattr(label_images, "make_refiner", lambda *_, **__: None)
    refined = params.model_copy(update={"explore": params.explore.model_copy(update={"refiner": "crm"})})
    out = tmp_path / "out/labels.parquet"

    def labelled(content: bytes, *, until: int = 100) -> int:
        def count(image: np.ndarray, extract: object, _: object):
            if len(seen) == until:
                raise OSError("the power failed")
            seen.append(image)
            return original(image, extract, params.explore)

        weights.write_bytes(content)
        monkeypatch.setattr(label_images, "label_image", count)
        seen.clear()
        with suppress(OSError):
            label(refined, photos, out)
        return len(seen)

    assert labelled(b"one", until=11) == 11
    assert labelled(b"two", until=11) == 11  # nothing is taken over
    assert labelled(b"two") == 10  # the first part of three, of eight photographs, was finished
    assert json.loads(out.with_name("labels.manifest.json").read_text())["label_free"] is False


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(params, photos, tmp_path, kill_when):
    label(params, photos, tmp_path / "undisturbed/labels.parquet")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    command = [sys.executable, "-m", "sohes", "label", str(photos), "--out", "out/labels.parquet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    kill_when(tmp_path, "out/.labels.parquet.parts/labels/parts/part-*.json", command, environment)
    assert not (tmp_path / "out/labels.parquet").exists()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "finished before" in done.stdout
    assert written(tmp_path / "out") == written(tmp_path / "undisturbed")


def test_turned_photographs_are_labelled_upright_or_as_stored(params, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(render_scene(0, size=64, seed=0).image_HW3[:40]).save(folder / "turned.jpg", exif=exif)
    for upright, size in ((True, (64, 40)), (False, (40, 64))):
        label(params, folder, tmp_path / "labels.parquet", exif=upright)
        (record,) = read_shard(tmp_path / "labels.parquet")
        assert (record.masks.height, record.masks.width) == size


def test_too_many_rejected_photographs_are_an_error_beside_the_others_labels(params, photos, tmp_path):
    strict = params.model_copy(update={"explore": params.explore.model_copy(update={"max_rejected_fraction": 0.1})})
    with pytest.raises(SohesError, match=r"3 of 21 photographs .* \(0.1\).*others are written.*broken.jpg"):
        label(strict, photos, tmp_path / "labels.parquet")
    assert len(read_shard(tmp_path / "labels.parquet")) == 18
    for path in photos.rglob("*.png"):
        path.unlink()
    with pytest.raises(SohesError, match="none of 1 photographs could be labelled"):
        label(params, photos, tmp_path / "others.parquet")
    assert not (tmp_path / "others.parquet").exists()


def test_what_cannot_work_is_said_before_it_starts(params, photos, tmp_path):
    with pytest.raises(SohesError, match=r"must name a .parquet file for --format parquet \(got .*labels.json\)"):
        label(params, photos, tmp_path / "labels.json")
    with pytest.raises(SohesError, match="has a name of 250 bytes: take one of 240 at most"):
        label(params, photos, tmp_path / ("é" * 121 + ".parquet"))
    with pytest.raises(SohesError, match=r"no folder of photographs at .*absent: name one"):
        label(params, tmp_path / "absent", tmp_path / "labels.parquet")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(SohesError, match=r"there are no photographs in .*nothing"):
        label(params, tmp_path / "nothing", tmp_path / "labels.parquet")
    tokens = params.model_copy(update={"explore": params.explore.model_copy(update={"features": "tokens"})})
    with pytest.raises(SohesError, match="--backbone"):
        label(tokens, photos, tmp_path / "labels.parquet")


@pytest.mark.parametrize("what", ["params", "photographs"])
def test_labels_of_what_changed_meanwhile_are_not_written_and_finished_parts_stay(
    params, photos, tmp_path, monkeypatch, what
):
    run = labelling.ShardedWork.run

    def change_meanwhile(work, *arguments, **options) -> None:
        run(work, *arguments, **options)
        if what == "params":
            file = photos.with_name("mine.yaml")
            file.write_text(file.read_text().replace("seed: 0", "seed: 1"))
        else:
            Image.new("RGB", (48, 48), "red").save(photos / "07.png")

    out = tmp_path / "out/labels.parquet"
    monkeypatch.setattr(labelling.ShardedWork, "run", change_meanwhile)
    with pytest.raises(SohesError, match="changed while label ran"):
        label(params, photos, out)
    assert not out.exists()
    monkeypatch.setattr(labelling.ShardedWork, "run", run)
    assert "parts were finished before" in label(params, photos, out)[1]
    assert out.exists()


def test_parts_that_may_have_seen_other_weights_are_made_again(params, photos, tmp_path, monkeypatch):
    weights, run = tmp_path / "weights", labelling.ShardedWork.run

    def replace_weights(work, *arguments, **options) -> None:
        run(work, *arguments, **options)
        weights.write_text("others")

    weights.write_text("those of the beginning")
    monkeypatch.setattr(labelling, "weights_file", lambda refiner: weights)
    monkeypatch.setattr(labelling.ShardedWork, "run", replace_weights)
    with pytest.raises(SohesError, match="weights changed while label ran"):
        label(params, photos, tmp_path / "labels.parquet")
    assert not list(tmp_path.glob(".labels*"))


def test_a_backbone_that_is_not_needed_is_named(params, photos, tmp_path):
    with pytest.raises(SohesError, match=r"explore\.features is handmade, for which mine\.safetensors is not needed"):
        label(params, photos, tmp_path / "labels.parquet", backbone=Path("mine.safetensors"))


@pytest.mark.parametrize("out", [".", ".."])
def test_a_folder_may_be_named_by_dots(params, photos, tmp_path, monkeypatch, out):
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    label(params, photos, Path(out), format="yolo")
    made = {".": "a/b", "..": "a"}[out]
    assert (tmp_path / f"{made}.manifest.json").exists()
    assert list((tmp_path / made).glob("*"))


def test_the_root_is_no_output(params, photos):
    with pytest.raises(SohesError, match="--out cannot be /"):
        label(params, photos, Path("/"), format="yolo")


def test_outputs_of_one_stem_have_each_their_own_facts(params, photos, tmp_path):
    label(params, photos, tmp_path / "mine.parquet")
    label(params, photos, tmp_path / "mine.json", format="coco")
    assert {path.name for path in tmp_path.glob("mine*manifest*")} == {"mine.manifest.json", "mine.json.manifest.json"}
