import gzip
import io
import json
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sohes.data.sources.sa1b import Sa1bSource, read_links, read_packs
from sohes.data.sources.source import read_digests
from sohes.data.sources.transfer import Patience
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.masks import areas, encode

HASTY = Patience(attempts=2, first_wait=0.01, longest_wait=0.02, timeout=2)


def photo(value: int, width: int = 20) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((10, width, 3), value, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def annotations(number: int, width: int = 20) -> bytes:
    mask = np.zeros((1, 10, width), bool)
    mask[0, :2, :3] = True
    image = {"image_id": number, "file_name": f"sa_{number}.jpg", "height": 10, "width": width}
    rle = {"size": [10, width], "counts": encode(mask)[0].decode()}
    return json.dumps({"image": image, "annotations": [{"id": 1, "segmentation": rle, "predicted_iou": 0.9}]}).encode()


def write_pack(path: Path, numbers: range, order: tuple[str, ...] = ("jpg", "json")) -> None:
    """A pack like SA-1B's: named .tar, gzipped, members under `./`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in numbers:
            for kind in order:
                info = tarfile.TarInfo(f"./sa_{number}.{kind}")
                data = photo(number) if kind == "jpg" else annotations(number)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(packed.getvalue()))


@pytest.fixture
def source(web: SimpleNamespace, tmp_path: Path) -> Sa1bSource:
    for pack in range(2):
        write_pack(web.folder / f"sa_00000{pack}.tar", range(10 * pack + 1, 10 * pack + 11))
    write_links(web, tmp_path)
    (tmp_path / "packs.txt").write_text("# two of a thousand\nsa_000001.tar\nsa_000000.tar\n")
    return Sa1bSource(tmp_path / "links.txt", tmp_path / "packs.txt", (), 0.4, None, HASTY)


def write_links(web: SimpleNamespace, folder: Path, packs: int = 2, sign: str = "old") -> None:
    rows = [f"sa_00000{i}.tar\t{web.url}/sa_00000{i}.tar?Signature={sign}\n" for i in range(packs)]
    (folder / "links.txt").write_text("file_name\tcdn_link\n" + "".join(rows))


def test_packs_keep_the_order_of_the_list_and_hold_out_by_name(source, tmp_path):
    packs = source.plan().packs
    assert [pack.name for pack in packs] == ["sa_000001.tar", "sa_000000.tar"]
    folder = tmp_path / "downloads"
    source.fetch(packs[0], folder)
    train = list(source.members(packs[0], folder, held_out=False))
    held_out = list(source.members(packs[0], folder, held_out=True))
    assert sorted(m.image_id for m in train + held_out) == list(range(11, 21))
    assert train
    assert held_out
    assert {member.truth for member in train} == {None}
    for member in held_out:
        assert member.data == photo(member.image_id)
        assert member.file_name == f"sa_{member.image_id}.jpg"
        assert areas(member.truth).tolist() == [6]
        assert member.truth.sources == ("sa1b",)


def test_a_pack_may_be_held_out_as_a_whole(source, tmp_path):
    source = replace(source, eval_packs=("sa_000001.tar",), eval_fraction=0)
    packs = source.plan().packs
    assert [(pack.name, pack.held_out) for pack in packs] == [("sa_000000.tar", False), ("sa_000001.tar", True)]
    for pack in packs:
        source.fetch(pack, tmp_path)
        counts = [len(list(source.members(pack, tmp_path, held_out=held_out))) for held_out in (False, True)]
        assert counts == ([0, 10] if pack.held_out else [10, 0])
    with pytest.raises(SohesError, match=r"has no link for 1 of 3 packs, such as sa_000009\.tar"):
        replace(source, eval_packs=("sa_000009.tar",)).plan()
    with pytest.raises(SohesError, match=r"pull\.sa1b\.eval_packs must name packs .* \(got 000001\)"):
        replace(source, eval_packs=("000001",)).plan()


def test_the_order_of_photograph_and_json_does_not_matter(source, web, tmp_path):
    pack = source.plan().packs[0]
    source.fetch(pack, tmp_path / "a")
    write_pack(tmp_path / "a/turned", range(11, 21), ("json", "jpg"))
    first = [(m.image_id, m.data) for m in source.members(pack, tmp_path / "a", held_out=True)]
    (tmp_path / "a/turned").rename(tmp_path / "a" / pack.name)
    assert [(m.image_id, m.data) for m in source.members(pack, tmp_path / "a", held_out=True)] == first


def test_an_expired_link_is_reported_and_a_fresh_list_continues(source, web, tmp_path):
    pack = source.plan().packs[0]
    web.faults.next = ["cut", "403"]
    with pytest.raises(
        SohesError, match=r"sa_000001\.tar was refused \(HTTP status 403\).*expired.*fresh list"
    ) as caught:
        source.fetch(pack, tmp_path / "downloads")
    assert "old" not in str(caught.value)
    write_links(web, tmp_path, sign="fresh")
    assert source.plan().packs[0] == pack  # the same pack, so nothing finished is done again
    source.fetch(pack, tmp_path / "downloads")
    assert web.faults.paths[-1] == "/sa_000001.tar?Signature=fresh"
    assert (tmp_path / "downloads/sa_000001.tar").read_bytes() == (web.folder / "sa_000001.tar").read_bytes()


def test_a_held_out_photograph_without_annotations_is_an_error(source, web, tmp_path):
    write_pack(web.folder / "sa_000001.tar", range(11, 21), ("jpg",))
    pack = source.plan().packs[0]
    source.fetch(pack, tmp_path / "downloads")
    assert list(source.members(pack, tmp_path / "downloads", held_out=False))
    with pytest.raises(SohesError, match=r"\d held-out photographs without annotations, such as sa_1\d"):
        list(source.members(pack, tmp_path / "downloads", held_out=True))


def test_annotations_that_cannot_be_read_reject_their_photograph(source, tmp_path):
    pack = source.plan().packs[0]
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / pack.name, "w") as tar:
        for number in range(11, 21):
            for kind, data in (("jpg", photo(number)), ("json", b"{}")):
                info = tarfile.TarInfo(f"sa_{number}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for member in source.members(pack, tmp_path / "d", held_out=True):
        assert isinstance(member.data, UnreadableImage)
        assert "annotations cannot be read" in member.data.reason


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no links"),
        ("file_name\tcdn_link\n", "has no links"),
        ("<html>expired</html>\n", "line 1: expected a name such as sa_000020.tar"),
        ("../sa_000001.tar\thttps://host/x\n", "line 1"),
        ("sa_000001.tar\tfile:///etc/passwd\n", "line 1"),
    ],
)
def test_an_invalid_list_of_links_is_reported(tmp_path, text, sentence):
    (tmp_path / "links.txt").write_text(text)
    with pytest.raises(SohesError, match=sentence):
        read_links(tmp_path / "links.txt")


def test_a_pack_without_a_link_is_named(source, web, tmp_path):
    write_links(web, tmp_path, packs=1)
    with pytest.raises(SohesError, match=r"no link for 1 of 2 packs, such as sa_000001\.tar"):
        source.plan()


def test_the_committed_list_has_twenty_packs(repository):
    assert len(read_packs(repository / "params/sa1b-2-percent.txt")) == 20


def test_lists_may_have_been_saved_by_a_windows_editor(tmp_path):
    of_digests = partial(read_digests, names=["sa_000001.tar"])
    links, packs, digests = (tmp_path / name for name in ("links.txt", "packs.txt", "digests.txt"))
    links.write_bytes(b"\xef\xbb\xbfsa_000001.tar\thttps://example.org/1\r\n")
    packs.write_bytes(b"\xef\xbb\xbfsa_000001.tar\r\n")
    digests.write_bytes(b"\xef\xbb\xbf" + b"0" * 64 + b"  sa_000001.tar\r\n")
    assert read_links(links) == {"sa_000001.tar": "https://example.org/1"}
    assert read_packs(packs) == ["sa_000001.tar"]
    assert list(of_digests(digests)) == ["sa_000001.tar"]
    for file, read in ((links, read_links), (packs, read_packs), (digests, of_digests)):
        file.write_text("sa_000001.tar\n", "utf-16")
        with pytest.raises(SohesError, match=r"is not UTF-8 text \(byte 0\): save it as UTF-8"):
            read(file)
