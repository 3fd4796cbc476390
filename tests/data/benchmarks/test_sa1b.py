import io
import itertools
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sohes.data.benchmarks import layout, sa1b
from sohes.errors import SohesError
from sohes.masks import mask_json, mask_set
from sohes.structures import CROWD
from sohes.work.walk import walk


def facts(records) -> list[tuple]:
    return sorted((r.image_id, r.file_name, r.masks.rles) for r in records)


def test_files_come_in_the_order_of_their_numbers(sample):
    first, second = sa1b.read_benchmark(sample("sa1b"))
    assert (first.image_id, second.image_id) == (9, 10)
    assert first.masks.sources == ("sa1b",) * 2


@pytest.mark.parametrize("gzip", [False, True])
def test_a_pack_is_read_as_it_is_even_gzip_under_the_name_of_a_tar(gzip, sample, tmp_path, write_pack):
    unpacked = facts(sa1b.read_benchmark(sample("sa1b")))
    (tmp_path / "packs").mkdir()
    pack = tmp_path / "packs/sa_000020.tar"
    write_pack(pack, gzip=gzip)
    assert (pack.read_bytes()[:2] == b"\x1f\x8b") == gzip
    for root in (pack, pack.parent):
        assert facts(sa1b.read_benchmark(root)) == unpacked
        assert sa1b.read_image(root, "sa_9.jpg")[:2] == b"\xff\xd8"


def test_a_crowd_that_export_wrote_is_one(tmp_path):
    masks = mask_set(np.ones((2, 6, 8), bool), sources=["coco", CROWD])
    (tmp_path / "sa_1.json").write_text(json.dumps(mask_json.sa1b(masks, "a.jpg", 1)))
    (record,) = sa1b.read_benchmark(tmp_path)
    assert record.masks.sources == ("sa1b", CROWD)


def test_files_beside_packs_do_not_hide_the_packs_in_silence(sample, write_pack):
    root = sample("sa1b")
    write_pack(root / "sa_000020.tar", gzip=False)
    with pytest.raises(SohesError, match=r"holds both .* such as sa_000020\.tar and sa_9\.json: name a pack as --root"):
        sa1b.read_benchmark(root)
    assert len(list(sa1b.read_benchmark(root / "sa_000020.tar"))) == 2


def test_what_is_no_pack_is_named(sample, tmp_path):
    (tmp_path / "sa_000001.tar").write_bytes(b"nothing")
    with pytest.raises(SohesError, match=r"sa_000001\.tar cannot be read as a pack"):
        list(sa1b.read_benchmark(tmp_path))
    root = sample("sa1b")
    (root / "sa_9.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(SohesError, match=r"sa_9\.json is not SA-1B JSON"):
        list(sa1b.read_benchmark(root))


@pytest.mark.parametrize("gzip", [False, True])
def test_a_pack_that_ends_too_early_is_a_sentence(gzip, tmp_path, write_pack):
    pack = tmp_path / "sa_000020.tar"
    write_pack(pack, gzip=gzip)
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 3 if gzip else 700])
    with pytest.raises(SohesError, match=r"sa_000020\.tar cannot be read as a pack of SA-1B .*download it again"):
        list(sa1b.read_benchmark(pack))
    with pytest.raises(SohesError, match=r"sa_000020\.tar cannot be read as a pack"):
        sa1b.read_image(pack, "sa_10.jpg")


def test_brackets_in_a_name_are_no_pattern(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/sa_[1-9].jpg").write_bytes(b"itself")
    (tmp_path / "deep/sa_5.jpg").write_bytes(b"another")
    assert sa1b.read_image(tmp_path, "sa_[1-9].jpg") == b"itself"


@pytest.mark.parametrize("gzip", [False, True])
def test_many_packs_are_listed_and_inflated_once(gzip, tmp_path, monkeypatch):
    for pack in range(4):
        with tarfile.open(tmp_path / f"sa_00000{pack}.tar", "w:gz" if gzip else "w") as tar:
            for number in range(5):
                data = f"photograph {pack}{number}".encode()
                member = tarfile.TarInfo(f"./sa_{pack}{number}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    opened = []
    original = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda path, mode: opened.append(path) or original(path, mode))
    for pack, number in itertools.product(range(4), range(5)):
        assert sa1b.read_image(tmp_path, f"sa_{pack}{number}.jpg") == f"photograph {pack}{number}".encode()
    assert len(opened) == (8 if gzip else 4)
    assert sa1b.read_image(tmp_path, "sa_02.jpg") == b"photograph 02"  # also backwards
    assert sa1b.read_image(tmp_path, "sa_01.jpg") == b"photograph 01"


def test_threads_and_processes_do_not_move_each_others_place(tmp_path, write_pack, monkeypatch):
    pack = tmp_path / "sa_000020.tar"
    write_pack(pack, gzip=True)
    sa1b.read_image(pack, "sa_9.jpg")
    opened = []
    original = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda path, mode: opened.append(path) or original(path, mode))
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(sa1b.read_image, pack, "sa_9.jpg").result() == sa1b.read_image(pack, "sa_9.jpg")
    assert len(opened) == 1
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    assert sa1b.read_image(pack, "sa_9.jpg")[:2] == b"\xff\xd8"
    assert len(opened) == 2


def test_a_pack_unpacked_one_folder_down_is_walked_once(sample, tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr(layout, "walk", lambda folder: walks.append(folder) or walk(folder))
    root = sample("sa1b")
    (root / "sa_000020").mkdir()
    for file in root.glob("sa_*.jpg"):
        file.rename(root / "sa_000020" / file.name)
    for name in ("sa_9.jpg", "sa_10.jpg") * 3:
        assert sa1b.read_image(root, name)[:2] == b"\xff\xd8"
    assert len(walks) == 1
