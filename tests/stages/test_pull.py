import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from sohes import cli
from sohes.data.scenes.render import EVAL_OFFSET, render_scene
from sohes.data.sources.folder import FolderSource
from sohes.data.store.decode import UnreadableImage
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError, TemporaryError
from sohes.masks import encode
from sohes.params import Params, load_params
from sohes.stages import pull


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "1")


@pytest.fixture
def scenes(repository: Path) -> Params:
    return changed(load_params(repository / "params.yaml"), scenes={"size": 48, "train": 5, "eval": 3})


def changed(params: Params, **values: object) -> Params:
    raw = params.model_dump()
    raw["pull"] |= {"images_per_shard": 2, "max_rejected_fraction": 0.2} | values
    return Params.model_validate(raw)


def folder_params(scenes: Params, images: Path | None, annotations: Path | None = None, **values: object) -> Params:
    folder = {"images": images, "annotations": annotations, "eval_fraction": values.pop("eval_fraction", 0.25)}
    return changed(scenes, source="folder", folder=folder, **values)


def photographs(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((10, 20 + i, 3), i, np.uint8)).save(folder / f"{i}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_scenes_are_packed_with_their_truth(scenes: Params, tmp_path: Path) -> None:
    pull.run(scenes, tmp_path)
    images, held_out = ImageStore(tmp_path / "data/images"), ImageStore(tmp_path / "data/eval")
    assert (len(images), len(held_out)) == (5, 3)
    assert images.entry(5).shard == "images-00002.tar"
    scene = render_scene(EVAL_OFFSET + 2, size=48, seed=0)
    np.testing.assert_array_equal(held_out.read(EVAL_OFFSET + 3), scene.image_HW3)
    labels = LabelStore(tmp_path / "data/eval/labels")
    assert labels.image_ids.tolist() == held_out.image_ids.tolist()
    record = labels.record(EVAL_OFFSET + 3)
    assert record.masks.rles == encode(scene.masks_NHW)
    assert record.digest == held_out.entry(EVAL_OFFSET + 3).digest
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["eval", "images"]


def test_shard_by_shard_gives_the_same_bytes_and_nothing_is_packed_twice(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull.run(scenes, tmp_path / "whole")
    for shard in (3, 0):
        pull.run(scenes, tmp_path / "pieces", shards=range(shard, shard + 1))
    assert [path.name for path in (tmp_path / "pieces/data").iterdir()] == [".images.unfinished"]
    packed: list[int] = []
    original = pull._pack

    def counting(job: pull.Job, shard: tuple) -> dict:
        packed.append(shard[0])
        return original(job, shard)

    monkeypatch.setattr(pull, "_pack", counting)
    pull.run(scenes, tmp_path / "pieces")
    assert packed == [1, 2, 4]
    assert contents(tmp_path / "pieces/data") == contents(tmp_path / "whole/data")
    with pytest.raises(SohesError, match=r"--shard must lie in 0\.\.4 for these images \(got 5\)"):
        pull.run(scenes, tmp_path, shards=range(5, 6))


def test_shards_of_other_params_are_not_taken(scenes: Params, tmp_path: Path) -> None:
    pull.run(scenes, tmp_path, shards=range(1))
    pull.run(changed(scenes, scenes={"size": 32, "train": 5, "eval": 3}), tmp_path)
    assert {ImageStore(tmp_path / "data/images").entry(i).width for i in range(1, 6)} == {32}


def test_a_folder_without_annotations(scenes: Params, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    photographs(tmp_path / "photos", 8)
    (tmp_path / "photos/read.me").touch()
    pull.run(folder_params(scenes, Path("photos")), tmp_path)  # relative to the project
    images, held_out = ImageStore(tmp_path / "data/images"), ImageStore(tmp_path / "data/eval")
    assert sorted([*images.image_ids, *held_out.image_ids]) == list(range(1, 9))
    assert len(held_out) == 2
    assert not (tmp_path / "data/eval/labels").exists()
    told = capsys.readouterr().err
    assert "6 images for training, 2 held out" in told
    assert "1 left out" in told


def test_every_image_is_packed_or_listed_and_a_few_bad_ones_do_not_stop(scenes: Params, tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 8)
    (tmp_path / "photos/bad.jpg").write_bytes(b"no photograph")
    pull.run(folder_params(scenes, tmp_path / "photos"), tmp_path)
    stores = [tmp_path / "data" / split for split in ("images", "eval")]
    packed = [ImageStore(store).entry(i).file_name for store in stores for i in ImageStore(store).image_ids]
    rejected = "".join((store / "rejected.jsonl").read_text() for store in stores)
    assert len(packed) == 8
    assert rejected.count("\n") == 1
    assert '"bad.jpg", "reason": "not an image' in rejected


def test_too_many_bad_ones_stop_and_are_looked_at_again(scenes: Params, tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 2)
    bad = tmp_path / "photos/bad.jpg"
    bad.write_bytes(b"no photograph")
    params = folder_params(scenes, tmp_path / "photos", eval_fraction=0)
    with pytest.raises(SohesError, match=r"1 of 3 images cannot be used.*bad\.jpg: not an image"):
        pull.run(params, tmp_path)
    assert not (tmp_path / "data/images").exists()
    status = bad.stat()
    good = (tmp_path / "photos/0.png").read_bytes()
    bad.write_bytes(good)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    pull.run(params, tmp_path)
    assert len(ImageStore(tmp_path / "data/images")) == 3
    assert len(ImageStore(tmp_path / "data/eval")) == 0  # eval_fraction 0


def test_a_photograph_of_another_size_than_its_annotations_is_rejected(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "photos", 6)
    images = [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 20 + i} for i in range(6)]
    images[2] |= {"height": 22, "width": 10}  # turned
    drawn = [{"id": 1, "image_id": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]}]
    (tmp_path / "a.json").write_text(str({"images": images, "annotations": drawn}).replace("'", '"'))
    pull.run(folder_params(scenes, tmp_path / "photos", tmp_path / "a.json", eval_fraction=1), tmp_path)
    assert ImageStore(tmp_path / "data/eval").image_ids.tolist() == [0, 1, 3, 4, 5]
    assert (
        "the photograph is 22 x 10, its annotations are for 10 x 22"
        in (tmp_path / "data/eval/rejected.jsonl").read_text()
    )
    assert "both for training and for evaluation" in ImageStore(tmp_path / "data/eval").note
    assert len(LabelStore(tmp_path / "data/eval/labels")) == 5


def phone_photographs(folder: Path, size: tuple[int, int], upright: bool) -> Path:
    """One photograph of each EXIF orientation, each annotated with its upper left quarter, upright or as stored."""
    folder.mkdir()
    images, notes = [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"{orientation}.png"
        Image.fromarray(np.full((*size[::-1], 3), orientation, np.uint8)).save(folder / name, exif=exif)
        width, height = size[::-1] if upright and orientation >= 5 else size
        images.append({"id": orientation, "file_name": name, "height": height, "width": width})
        corners = [0, 0, width / 2, 0, width / 2, height / 2, 0, height / 2]
        notes.append({"id": orientation, "image_id": orientation, "segmentation": [corners]})
    (folder.parent / "a.json").write_text(json.dumps({"images": images, "annotations": notes}))
    return folder.parent / "a.json"


@pytest.mark.parametrize("size", [(24, 16), (16, 24), (16, 16)])
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("key", [False, True])
def test_photographs_are_turned_as_they_were_annotated(
    scenes: Params, tmp_path: Path, capsys: pytest.CaptureFixture, size: tuple[int, int], upright: bool, key: bool
) -> None:
    file = phone_photographs(tmp_path / "photos", size, upright)
    params = folder_params(scenes, tmp_path / "photos", file, eval_fraction=1, annotations_upright=key)
    pull.run(params, tmp_path)
    store, labels = ImageStore(tmp_path / "data/eval"), LabelStore(tmp_path / "data/eval/labels")
    assert len(store) == len(labels) == 8
    told_by_size = {1} if size[0] == size[1] else {1, 5, 6, 7, 8}
    for orientation in range(1, 9):
        turned = orientation > 1 and (upright if orientation in told_by_size else key)
        assert store.entry(orientation).apply_exif == turned
        masks = labels.record(orientation).masks
        assert store.read(orientation).shape[:2] == (masks.height, masks.width)
    said = capsys.readouterr().err
    assert f"{8 - len(told_by_size)} annotated photographs are to be turned by their EXIF, such as 2.png" in said
    assert f"drawn on {'upright' if key else 'stored'} pixels" in said
    assert ("4 photographs were turned upright" in said) == (upright and size[0] != size[1])


def annotated(folder: Path, *changes: dict) -> Path:
    """Six photographs, each with a square; `changes` to the annotations of the first ones."""
    photographs(folder / "photos", 6)
    images = [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 20 + i} for i in range(6)]
    drawn = [{"id": 10 + i, "image_id": i, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]} for i in range(6)]
    for annotation, change in zip(drawn, changes, strict=False):
        annotation |= change
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": drawn}))
    return folder / "a.json"


@pytest.mark.parametrize("broken", [[[1, 1, 9, None, 9, 9]], {"size": [10, 25], "counts": "b'1'"}, "gone"])
def test_a_broken_mask_of_any_photograph_stops_before_any_is_packed(
    scenes: Params, tmp_path: Path, broken: object
) -> None:
    path = annotated(tmp_path, {}, {}, {}, {}, {}, {"segmentation": broken})
    params = folder_params(scenes, tmp_path / "photos", path, eval_fraction=0.3)
    with pytest.raises(SohesError, match=r"a\.json: annotation 15 of 5\.png has no mask that can be read"):
        pull.run(params, tmp_path)
    assert not (tmp_path / "data/.images.unfinished").exists()


def test_annotations_that_are_left_out_are_told_and_kept(
    scenes: Params, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = annotated(tmp_path, {"image_id": "0"}, {"image_id": 99}, {"segmentation": []}, {"iscrowd": "0", "area": 70})
    pull.run(folder_params(scenes, tmp_path / "photos", path, eval_fraction=1), tmp_path)
    labels = LabelStore(tmp_path / "data/eval/labels")
    assert [len(labels.record(i).masks) for i in range(6)] == [1, 0, 0, 1, 1, 1]
    assert labels.record(3).masks.entities == 1
    np.testing.assert_array_equal(labels.record(3).masks.stated_areas, [70])
    sentences = (
        f"{path}: 1 left out: the file lists no image of their image_id, such as annotation 11",
        f"{path}: 1 left out: no pixel in their masks, such as annotation 12 of 2.png",
    )
    told, note = capsys.readouterr().err, ImageStore(tmp_path / "data/eval").note
    for sentence in sentences:
        assert sentence in told
        assert sentence in note


@pytest.mark.parametrize(
    ("change", "words"),
    [({"image_id": "a"}, "none of 6 annotations can be used"), ({"iscrowd": True}, "can be used: .* all are crowds")],
)
def test_nothing_to_score_with_is_an_error(scenes: Params, tmp_path: Path, change: dict, words: str) -> None:
    path = annotated(tmp_path, *[change] * 6)
    with pytest.raises(SohesError, match=words):
        pull.run(folder_params(scenes, tmp_path / "photos", path, eval_fraction=1), tmp_path)


def test_what_comes_while_pull_runs_is_told_and_what_changes_costs_its_shard_only(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    photographs(tmp_path / "photos", 8)
    params = folder_params(scenes, tmp_path / "photos", eval_fraction=0)
    packed: list[int] = []
    meanwhile: list = [lambda: (tmp_path / "photos/7.png").write_bytes((tmp_path / "photos/6.png").read_bytes())]
    original = pull._pack

    def pack(job: pull.Job, shard: tuple) -> dict:
        packed.append(shard[0])
        if shard[0] == 3:
            meanwhile.pop()() if meanwhile else None
        return original(job, shard)

    monkeypatch.setattr(pull, "_pack", pack)
    with pytest.raises(TemporaryError, match=r"1 files of pull\.source folder changed while pull ran, such as 7\.png"):
        pull.run(params, tmp_path)
    assert not (tmp_path / "data/images").exists()
    (tmp_path / "photos/z").mkdir()
    meanwhile += [lambda: [(tmp_path / "photos/z" / name).touch() for name in ("0.png", "read.me")]]
    pull.run(params, tmp_path)
    assert packed == [0, 1, 2, 3, 3]
    assert len(ImageStore(tmp_path / "data/images")) == 8
    assert "1 photographs have come meanwhile: run it again to have them, too" in capsys.readouterr().err


def test_shards_that_a_smaller_source_does_not_have_are_not_published(scenes: Params, tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 8)
    params = folder_params(scenes, tmp_path / "photos")
    for shard in pull.missing_shards(params, tmp_path):
        pull.run(params, tmp_path, shards=range(shard, shard + 1))
    for number in range(5):
        (tmp_path / f"photos/{number}.png").unlink()
    pull.run(params, tmp_path)
    shutil.copytree(tmp_path / "photos", tmp_path / "alone/photos")
    pull.run(folder_params(scenes, tmp_path / "alone/photos"), tmp_path / "alone")
    assert contents(tmp_path / "data") == contents(tmp_path / "alone/data")


def test_a_source_that_fails_on_one_file_goes_on(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "photos", 8)
    original = FolderSource.read

    def read(self: FolderSource, photograph) -> bytes:
        if photograph.file_name == "3.png":
            raise UnreadableImage("the file cannot be read: Input/output error")
        return original(self, photograph)

    monkeypatch.setattr(FolderSource, "read", read)
    pull.run(folder_params(scenes, tmp_path / "photos", eval_fraction=0), tmp_path)
    assert "Input/output error" in (tmp_path / "data/images/rejected.jsonl").read_text()


def test_what_stood_there_before_is_replaced_whole(scenes: Params, tmp_path: Path) -> None:
    pull.run(scenes, tmp_path)
    pull.run(changed(scenes, scenes={"size": 48, "train": 1, "eval": 1}), tmp_path)
    assert [path.name for path in sorted((tmp_path / "data/images").iterdir())] == [
        "images-00000.tar",
        "manifest.arrow",
        "rejected.jsonl",
    ]
    assert len(LabelStore(tmp_path / "data/eval/labels")) == 1


@pytest.mark.parametrize("link", ["data", "data/images", "data/eval"])
def test_folders_that_are_links_are_filled_where_they_point(scenes: Params, tmp_path: Path, link: str) -> None:
    pull.run(scenes, tmp_path / "plain")
    place = tmp_path / "linked" / link
    place.parent.mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    place.symlink_to(tmp_path / "disk")
    for _ in range(2):
        pull.run(scenes, tmp_path / "linked")
        assert place.is_symlink()
        assert contents(tmp_path / "disk") == contents(tmp_path / "plain" / link)
    assert sorted(path.name for path in (tmp_path / "linked/data").iterdir()) == ["eval", "images"]


def test_a_disk_that_is_too_small_is_named_before_anything_is_packed(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path / "photos", 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500))
    monkeypatch.setattr(pull, "pack_shard", None)
    with pytest.raises(SohesError, match=r"pull needs .* free some space"):
        pull.run(folder_params(scenes, tmp_path / "photos"), tmp_path)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(
    scenes: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(scenes.model_dump(mode="json")))
    original, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(sys, "argv", ["sohes", "pull"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "disk is full" in capsys.readouterr().err
    assert not (tmp_path / "data/images").exists()
    assert not any(path.name.startswith(".images-") for path in tmp_path.rglob("*"))
    monkeypatch.setattr(os, "fsync", original)
    pull.run(scenes, tmp_path)
    assert len(ImageStore(tmp_path / "data/images")) == 5


@pytest.mark.parametrize("images", [None, Path("nowhere")])
def test_a_folder_that_is_not_there_is_an_error(scenes: Params, tmp_path: Path, images: Path | None) -> None:
    with pytest.raises(SohesError, match=r"pull\.folder\.images"):
        pull.run(folder_params(scenes, images), tmp_path)


def test_an_unknown_source_is_named(repository: Path, tmp_path: Path) -> None:
    text = (repository / "params.yaml").read_text().replace("source: scenes", "source: tapes")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SohesError, match=r"pull\.source.*'tapes'"):
        load_params(tmp_path / "params.yaml")


def test_real_photographs_with_annotations(scenes: Params, tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "coco_panoptic_100"
    params = folder_params(scenes, folder / "images", folder / "panoptic.json", eval_fraction=1, images_per_shard=64)
    pull.run(params, tmp_path)
    labels, store = LabelStore(tmp_path / "data/eval/labels"), ImageStore(tmp_path / "data/eval")
    assert sum(len(labels.record(i).masks) for i in labels.image_ids) == 1111
    assert set(labels.image_ids) == set(store.image_ids)
    entry = store.entry(387)
    assert store.read_bytes(387) == (folder / "images" / entry.file_name).read_bytes()
    assert all(labels.record(i).digest == store.entry(i).digest for i in store.image_ids[:5])
