"""`pull` from packs: archives on a web server with faults, and a prefix of S3."""

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sohes.data.sources import archives, sa1b, transfer
from sohes.data.sources import s3 as s3_module
from sohes.data.sources.transfer import Patience
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError
from sohes.params import Params, load_params
from sohes.stages import evaluate, pull

HASTY = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, timeout=1)


@pytest.fixture(autouse=True)
def _hasty_and_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "1")
    for source in (archives.ArchivesSource, sa1b.Sa1bSource, s3_module.S3Source):
        monkeypatch.setattr(source, "patience", HASTY)
        monkeypatch.setattr(source.__init__, "__defaults__", (HASTY,))


def photo(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((10, 20, 3), value, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def params(web: SimpleNamespace, repository: Path) -> Params:
    """Two zips for training, one held out with annotations: three shards."""
    for name, numbers in (("a", range(1, 6)), ("b", range(6, 11)), ("val", range(11, 15))):
        with zipfile.ZipFile(web.folder / f"{name}.zip", "w") as archive:
            for number in numbers:
                archive.writestr(f"{name}/{number}.png", photo(number))
    images = [{"id": 100 + i, "file_name": f"{i}.png", "height": 10, "width": 20} for i in range(11, 15)]
    square = {"id": 1, "image_id": 111, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "iscrowd": 0}
    (web.folder / "val.json").write_text(json.dumps({"images": images, "annotations": [square]}))
    values = {
        "images": [f"{web.url}/a.zip", f"{web.url}/b.zip"],
        "eval": [f"{web.url}/val.zip"],
        "annotations": f"{web.url}/val.json",
        "eval_fraction": 0,
        "digests": None,
    }
    return changed(load_params(repository / "params.yaml"), source="archives", archives=values)


def changed(params: Params, **values: object) -> Params:
    raw = params.model_dump()
    raw["pull"] |= {"max_rejected_fraction": 0.2} | values
    return Params.model_validate(raw)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_packs_become_shards_with_truth_and_are_removed(params, tmp_path):
    pull.run(params, tmp_path)
    images, held_out = ImageStore(tmp_path / "data/images"), ImageStore(tmp_path / "data/eval")
    assert (len(images), held_out.image_ids.tolist()) == (10, [111, 112, 113, 114])
    assert {images.entry(i).shard for i in images.image_ids} == {"images-00000.tar", "images-00001.tar"}
    assert images.read_bytes(1) == photo(1)
    labels = LabelStore(tmp_path / "data/eval/labels")
    assert labels.image_ids.tolist() == held_out.image_ids.tolist()
    assert len(labels.record(111).masks) == 1
    assert labels.record(111).digest == held_out.entry(111).digest
    packs = json.loads((tmp_path / "data/images/packs.json").read_text())
    assert [pack["name"] for pack in packs] == ["a.zip", "b.zip", "val.zip"]
    assert all(pack["digest"].startswith("sha256:") for pack in packs)
    assert not (tmp_path / "data/.images.unfinished").exists()


def test_what_is_left_out_of_the_annotations_is_told_and_kept(params, web, tmp_path, capsys):
    content = json.loads((web.folder / "val.json").read_text())
    square = content["annotations"][0]
    content["annotations"] += [square | {"id": 2, "image_id": 5}, square | {"id": 3, "segmentation": []}]
    (web.folder / "val.json").write_text(json.dumps(content))
    pull.run(params, tmp_path)
    told, note = capsys.readouterr().err, ImageStore(tmp_path / "data/eval").note
    for reason, number in (("the file lists no image of their image_id", 2), ("no pixel in their masks", 3)):
        sentence = f"val.zip: 1 left out: {reason}, such as annotation {number}"
        assert sentence in note
        assert sentence in told
    content["annotations"] = []
    (web.folder / "val.json").write_text(json.dumps(content))
    with pytest.raises(SohesError, match="none of the held-out images has a mask to find"):
        pull.run(params, tmp_path)


def test_shard_by_shard_and_with_every_fault_the_bytes_are_the_same(params, web, tmp_path):
    pull.run(params, tmp_path / "whole")
    web.faults.next = ["500", "cut", "", "503", "stall", "whole", "429", "cut", "", "cut"]
    for shard in (2, 0):
        pull.run(params, tmp_path / "pieces", shards=range(shard, shard + 1))
    web.faults.paths.clear()
    pull.run(params, tmp_path / "pieces")
    assert set(web.faults.paths) == {"/b.zip"}  # what was finished is not fetched again
    assert contents(tmp_path / "pieces/data") == contents(tmp_path / "whole/data")


def test_what_was_fetched_is_not_taken_for_another_pack_of_its_place(params, web, tmp_path, monkeypatch):
    values = {"images": [str(web.folder / "a.zip")], "eval": [], "annotations": None}
    there = changed(params, archives=params.pull.archives.model_dump() | values)
    with monkeypatch.context() as patch:
        patch.setattr(pull, "pack_shard", lambda *_, **__: {}["killed"])
        with pytest.raises(KeyError):
            pull.run(there, tmp_path)
    (left,) = (tmp_path / "data/.images.unfinished").rglob("a.zip")
    assert left.read_bytes() == (web.folder / "a.zip").read_bytes()
    with zipfile.ZipFile(web.folder / "a.zip", "w") as archive:
        archive.writestr("new.png", photo(99))
    pull.run(there, tmp_path)
    assert ImageStore(tmp_path / "data/images").entry(1).file_name == "a.zip/new.png"


def test_what_was_cut_for_good_is_one_sentence_and_goes_on_later(params, web, tmp_path):
    web.faults.next = ["", "cut", "500", "500", "500"]
    with pytest.raises(SohesError, match=r"b\.zip: the server answers 500, 3 times in a row"):
        pull.run(params, tmp_path)
    assert not (tmp_path / "data/images").exists()
    web.faults.paths.clear()
    pull.run(params, tmp_path)
    assert "/a.zip" not in web.faults.paths
    assert len(ImageStore(tmp_path / "data/images")) == 10


def test_a_damaged_member_is_rejected_and_a_damaged_archive_stops(params, web, tmp_path):
    whole = (web.folder / "a.zip").read_bytes()
    (web.folder / "a.zip").write_bytes(whole.replace(photo(3), b"x" * len(photo(3))))
    pull.run(params, tmp_path)
    (line,) = (tmp_path / "data/images/rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["file_name"] == "a.zip/a/3.png"
    (web.folder / "a.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SohesError, match=r"a\.zip is damaged"):
        pull.run(params, tmp_path)
    assert len(ImageStore(tmp_path / "data/images")) == 9  # what was there stays until the new is whole


def test_a_disk_that_is_too_small_is_named_before_anything_comes(params, s3, tmp_path, monkeypatch):
    for name in ("a", "b"):
        s3.client.put_object(Bucket="photos", Key=f"packs/{name}.zip", Body=bytes(3000))
    values = {"uri": "s3://photos/packs", "endpoint_url": None, "requester_pays": False, "eval_fraction": 0}
    there = changed(params, source="s3", s3=values | {"digests": None})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=8999))
    with pytest.raises(SohesError, match=r"pull needs .* free some space"):
        pull.run(there, tmp_path)
    assert s3.faults.paths == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_prefix_of_s3(params, s3, tmp_path):
    for number in range(12):
        s3.client.put_object(Bucket="photos", Key=f"set/{number:02d}.png", Body=photo(number))
    for key in ("set/empty.png", "set/sub/"):  # a photograph that did not arrive; a console's folder
        s3.client.put_object(Bucket="photos", Key=key, Body=b"")
    values = {"uri": "s3://photos/set", "endpoint_url": None, "requester_pays": False, "eval_fraction": 0.3}
    there = changed(params, source="s3", s3=values | {"digests": None}, images_per_shard=5)
    s3.faults.next = ["503", "cut", "500"]
    pull.run(there, tmp_path)
    stores = [ImageStore(tmp_path / "data" / split) for split in ("images", "eval")]
    names = sorted(store.entry(i).file_name for store in stores for i in store.image_ids)
    assert names == [f"set/{number:02d}.png" for number in range(12)]
    rejected = "".join((store.folder / "rejected.jsonl").read_text() for store in stores)
    assert [json.loads(line) for line in rejected.splitlines()] == [
        {"file_name": "set/empty.png", "reason": "the file is empty"}
    ]
    assert min(map(len, stores)) > 0


S3 = {"uri": "s3://photos/set", "endpoint_url": None, "requester_pays": False, "eval_fraction": 0.3, "digests": None}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_uploads_while_pull_runs_cost_nothing_that_is_done(params, s3, tmp_path, capsys):
    def put(*numbers: int, value: int = 0) -> None:
        for number in numbers:
            s3.client.put_object(Bucket="photos", Key=f"set/{number:02d}.png", Body=photo(number + value))

    put(*range(12))
    there = changed(params, source="s3", s3=S3, images_per_shard=5)
    pull.run(there, tmp_path, shards=range(1))
    pull.run(there, tmp_path, shards=range(2, 3))
    put(12)  # a third in the last group
    put(1, value=100)  # another in the first
    s3.client.put_object(Bucket="photos", Key="set/read.me", Body=b"text")
    assert pull.missing_shards(there, tmp_path) == [0, 1, 2]
    pull.run(there, tmp_path, shards=range(2))
    s3.client.put_object(Bucket="photos", Key="set/read.me", Body=b"another text")
    put(13)
    s3.faults.paths.clear()
    listed, listings = s3_module.S3Source._list, []

    def and_then_one_more(self):
        found = listed(self)
        listings.append(len(found))
        if len(listings) == 1:
            put(14)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_module.S3Source, "_list", and_then_one_more)
        pull.run(there, tmp_path)
    assert listings == [15, 16]  # once for the plan, once to see what has come
    assert {path.split()[0] for path in s3.faults.paths} == {f"/photos/set/{number}.png" for number in range(10, 14)}
    stores = [ImageStore(tmp_path / "data" / split) for split in ("images", "eval")]
    read = {store.entry(i).file_name: store.read_bytes(i) for store in stores for i in store.image_ids}
    assert read == {f"set/{number:02d}.png": photo(number + 100 * (number == 1)) for number in range(14)}
    assert "1 archives or photographs have come meanwhile: run it again" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_limit_that_is_raised_brings_nothing_again(params, s3, tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.png", photo(number) if number % 2 else b"no photograph")
    s3.client.put_object(Bucket="photos", Key="set/photographs-2024.zip", Body=data.getvalue())
    there = changed(params, source="s3", s3=S3)
    with pytest.raises(SohesError, match=r"10 of 20 images cannot be used.*or raise it"):
        pull.run(there, tmp_path)
    s3.faults.paths.clear()
    pull.run(changed(there, max_rejected_fraction=0.6), tmp_path)
    assert s3.faults.paths == []
    assert len(ImageStore(tmp_path / "data/images")) + len(ImageStore(tmp_path / "data/eval")) == 10


@pytest.mark.parametrize(("fraction", "change"), [(1, "training: lower"), (1e-9, "evaluation: raise")])
def test_nothing_left_on_one_side_is_told_by_the_key_that_decides(params, tmp_path, fraction, change):
    archives = params.pull.archives.model_dump() | {"eval": [], "annotations": None, "eval_fraction": fraction}
    with pytest.raises(SohesError, match=rf"of 10 photographs none is left for {change} pull\.archives\.eval_fraction"):
        pull.run(changed(params, archives=archives), tmp_path)


def test_without_anything_held_out_the_key_is_named(params, tmp_path, capsys):
    archives = params.pull.archives.model_dump() | {"eval": [], "annotations": None, "eval_fraction": 0}
    pull.run(changed(params, archives=archives), tmp_path)
    assert "nothing can be scored: raise pull.archives.eval_fraction" in capsys.readouterr().err
    with pytest.raises(SohesError, match=r"no evaluation images in .*: raise pull\.archives\.eval_fraction"):
        evaluate.run(changed(params, archives=archives), tmp_path)


@pytest.mark.parametrize("source", ["s3", "sa1b", "archives"])
def test_a_source_without_an_address_names_its_key(repository, tmp_path, source):
    params = changed(load_params(repository / "params.yaml"), source=source)
    with pytest.raises(SohesError, match=rf"pull\.source is {source} but pull\.{source}\."):
        pull.run(params, tmp_path)
