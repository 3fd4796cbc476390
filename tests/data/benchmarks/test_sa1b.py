import json

import pytest

from sohes.data.benchmarks import sa1b
from sohes.errors import SohesError


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
