from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, read_shard
from sohes.errors import SohesError
from sohes.evaluate.phases import depends_on
from sohes.explore import feature_server, label_images
from sohes.masks import areas
from sohes.params import Params, load_params
from sohes.stages import explore, pull
from sohes.work import sharded


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOHES_WORKERS", "1")


@pytest.fixture
def params(repository: Path) -> Params:
    raw = load_params(repository / "params.yaml").model_dump()
    raw["pull"] |= {"source": "scenes", "scenes": {"size": 64, "train": 5, "eval": 1}}
    raw["explore"] |= {"features": "handmade", "image_size": 64, "images_per_shard": 2, "max_rejected_fraction": 0.2}
    return Params.model_validate(raw)


@pytest.fixture
def root(params: Params, tmp_path: Path) -> Path:
    pull.run(params, tmp_path)
    return tmp_path


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"explore": params.explore.model_copy(update=values)})


def published(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "data/pseudo_labels").iterdir()}


def test_every_image_is_labelled(params: Params, root: Path) -> None:
    explore.run(params, root)
    images, labels = ImageStore(root / "data/images"), LabelStore(root / "data/pseudo_labels")
    assert labels.image_ids.tolist() == images.image_ids.tolist()
    for image_id in images.image_ids:
        record, entry = labels.record(image_id), images.entry(image_id)
        assert (record.file_name, record.digest) == (entry.file_name, entry.digest)
        assert (record.masks.height, record.masks.width) == (64, 64)
        assert areas(record.masks).min() > 0
    manifest = json.loads((root / "data/pseudo_labels/manifest.json").read_text())
    found = [labels.record(i).masks for i in labels.image_ids]
    assert manifest["images"] == 5
    assert manifest["masks"] == sum(map(len, found)) == sum(manifest["masks_by_source"].values())
    assert manifest["label_free"] is True
    assert manifest["rejected"] == 0
    assert (root / "data/pseudo_labels/rejected.jsonl").read_text() == ""
    assert sorted(published(root)) == [
        "manifest.json", "rejected.jsonl", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet",
    ]  # fmt: skip


def test_the_same_images_give_the_same_bytes_however_the_work_is_cut(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore.run(params, root)
    first = published(root)
    monkeypatch.setenv("SOHES_WORKERS", "4")  # more than shards: these are cut into pieces
    monkeypatch.setattr(sharded, "run_shards", lambda worker, shards, **_: [worker(shard) for shard in shards])
    explore.run(params, root)
    assert published(root) == first


@pytest.mark.slow
def test_a_pool_gives_the_same_bytes(params: Params, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explore.run(params, root)
    first = published(root)
    monkeypatch.setenv("SOHES_WORKERS", "2")
    explore.run(params, root)
    assert published(root) == first


@pytest.mark.slow
def test_features_from_one_process_for_a_pool_give_the_same_bytes(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = changed(params, features="tokens", theta_merge=(0.9, 0.6, 0.3))
    torch.manual_seed(0)
    save_backbone(build_backbone(params.backbone), root / "models/backbone.safetensors", {})
    explore.run(params, root)
    first = published(root)
    monkeypatch.setattr(feature_server, "_has_gpu", lambda: True)
    served = []
    answer = feature_server.make_extractor

    def count(*arguments: object):
        extract = answer(*arguments)
        return lambda images: served.append(len(images)) or extract(images)

    monkeypatch.setattr(feature_server, "make_extractor", count)
    monkeypatch.setenv("SOHES_WORKERS", "3")
    explore.run(params, root)
    assert len(served) >= 5  # each of the five images at least once, in this process
    assert published(root) == first


def test_some_shards_then_the_others_then_finish(params: Params, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shards, missing in ((range(1, 2), [0, 2]), (range(12), [])):
        explore.run(params, root, shards=shards)
        assert explore.missing_shards(params, root) == missing
        assert not (root / "data/pseudo_labels").exists()

    def never(*_: object) -> None:
        raise AssertionError("a finished shard is labelled again")

    monkeypatch.setattr(label_images, "label_image", never)
    explore.run(params, root, shards=range(1))
    explore.run(params, root)
    assert LabelStore(root / "data/pseudo_labels").image_ids.tolist() == [1, 2, 3, 4, 5]
    assert not (root / ".sohes/explore").exists()


@pytest.mark.parametrize("shard", [-1, 3])
def test_an_unknown_shard_is_refused(params: Params, root: Path, shard: int) -> None:
    with pytest.raises(SohesError, match=rf"0\.\.2 for 5 images \(got {shard}\)"):
        explore.run(params, root, shards=range(shard, shard + 1))


def test_what_was_stopped_goes_on_and_stale_shards_are_not_used(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, seen = label_images.label_image, []

    def count(image: np.ndarray, *arguments: object):
        if len(seen) == 3:
            raise OSError("the power failed")
        seen.append(image.sum())
        return label(image, *arguments)

    monkeypatch.setattr(label_images, "label_image", count)
    with pytest.raises(OSError, match="power"):
        explore.run(params, root)
    monkeypatch.setattr(label_images, "label_image", lambda *a: seen.append(a[0].sum()) or label(*a))
    seen.clear()
    explore.run(changed(params, theta_cover=0.8), root, shards=range(1))
    assert len(seen) == 2  # other params: nothing is taken over
    seen.clear()
    explore.run(params, root)
    assert len(seen) == 3  # the first shard of two was finished


def fails_on(doomed: set[int], root: Path):
    label, store = label_images.label_image, ImageStore(root / "data/images")
    pixels = {store.read(image_id).tobytes() for image_id in doomed}

    def fail(image: np.ndarray, *arguments: object):
        if image.tobytes() in pixels:
            raise ValueError("too odd")
        return label(image, *arguments)

    return fail


def test_an_image_that_fails_is_named(params: Params, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_images, "label_image", fails_on({3}, root))
    explore.run(params, root)
    name = ImageStore(root / "data/images").entry(3).file_name
    rejected = (root / "data/pseudo_labels/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in rejected] == [{"file_name": name, "reason": "too odd"}]
    assert LabelStore(root / "data/pseudo_labels").image_ids.tolist() == [1, 2, 4, 5]
    assert [record.image_id for record in read_shard(root / "data/pseudo_labels/shard-00001.parquet")] == [4]


def test_too_many_failures_stop_the_stage_and_are_tried_again(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label_images.label_image
    monkeypatch.setattr(label_images, "label_image", fails_on({3, 4}, root))
    with pytest.raises(SohesError, match=r"2 of 5 images could not be labelled.*\(0.2\).*too odd"):
        explore.run(params, root)
    assert not (root / "data/pseudo_labels").exists()
    monkeypatch.setattr(label_images, "label_image", whole)
    explore.run(params, root)
    assert len(LabelStore(root / "data/pseudo_labels")) == 5


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("OpenCV(4.13) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(errno.EIO, "Input/output error"),
    ],
)
def test_the_machines_trouble_is_no_images_fault(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(label_images, "label_image", fail)
    with pytest.raises(type(error)):
        explore.run(params, root)


def test_other_weights_of_a_refiner_are_other_labels(
    params: Params, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the stage, and for what `evaluate` and `results` keep of phase 1."""
    weights = tmp_path / "crm"
    monkeypatch.setenv("SOHES_CRM", str(weights))
    save_backbone(build_backbone(params.backbone), root / "models/backbone.safetensors", {})
    params = changed(params, refiner="crm")
    with pytest.raises(SohesError, match="CRM's weights are not at"):
        explore.missing_shards(params, root)
    weights.write_bytes(b"one")
    whole, depends = label_images.label_image, depends_on("explore", params, root)
    with pytest.raises(SohesError, match="does not hold CRM's weights"):
        explore.run(params, root)  # and not every image rejected
    monkeypatch.setattr(label_images, "make_refiner", lambda *_, **__: None)
    plain = changed(params, refiner="none").explore
    monkeypatch.setattr(label_images, "label_image", lambda image, extract, _: whole(image, extract, plain))
    explore.run(params, root, shards=range(1))
    assert explore.missing_shards(params, root) == [1, 2]
    weights.write_bytes(b"two")
    assert explore.missing_shards(params, root) == [0, 1, 2]
    assert depends_on("explore", params, root) != depends
    explore.run(params, root)
    assert json.loads((root / "data/pseudo_labels/manifest.json").read_text())["label_free"] is False


def test_tokens_need_a_backbone(params: Params, root: Path) -> None:
    with pytest.raises(SohesError, match="run `sohes backbone` first"):
        explore.run(changed(params, features="tokens"), root)


@pytest.mark.parametrize("known", [True, False, None])
def test_labels_from_tokens_are_as_label_free_as_the_backbone(params: Params, root: Path, known: bool | None) -> None:
    save_backbone(build_backbone(params.backbone), root / "models/backbone.safetensors", {"label_free": known})
    explore.run(changed(params, features="tokens"), root)
    assert json.loads((root / "data/pseudo_labels/manifest.json").read_text())["label_free"] is known


def test_images_come_first(params: Params, tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="sohes pull"):
        explore.run(params, tmp_path)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(params: Params, root: Path, tmp_path_factory, kill_when) -> None:
    """kill -9 after the first finished shard, as a node's death would."""
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(root / "data", undisturbed / "data")
    explore.run(params, undisturbed)
    (root / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    environment = {**os.environ, "SOHES_WORKERS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "sohes", "explore"]
    kill_when(root, ".sohes/explore/*/parts/shard-00000.json", command, environment)
    assert not (root / "data/pseudo_labels").exists()
    explore.run(params, root)
    assert published(root) == published(undisturbed)


def test_a_full_disk_in_the_middle_of_a_shard_leaves_no_half_shard(
    params: Params, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(root / "data", undisturbed / "data")
    explore.run(params, undisturbed)
    write = label_images.write_shard

    def full(path: Path, records: list) -> None:
        if path.name == "shard-00001.parquet":
            path.with_name(".shard-00001.half.parquet").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, records)

    monkeypatch.setattr(label_images, "write_shard", full)
    with pytest.raises(OSError, match="No space"):
        explore.run(params, root)
    assert not (root / "data/pseudo_labels").exists()
    monkeypatch.setattr(label_images, "write_shard", write)
    explore.run(params, root)
    assert published(root) == published(undisturbed)
