import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from sohes.data.sources import s3 as module
from sohes.data.sources.s3 import S3Source
from sohes.data.sources.transfer import Patience
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError

HASTY = Patience(attempts=4, first_wait=0.01, longest_wait=0.02, timeout=1)
# moto and botocore use deprecated functions and leave sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def source_of(uri: str = "s3://photos/set", **values: object) -> S3Source:
    fields = {"uri": uri, "endpoint_url": None, "requester_pays": False, "eval_fraction": 0.3, "images_per_shard": 4}
    return S3Source(**(fields | {"digests": None, "patience": HASTY} | values))


@pytest.fixture
def loose(s3: SimpleNamespace) -> dict[str, bytes]:
    """Ten photographs (random bytes), a text file, and a photograph outside the prefix."""
    files = {f"set/{i}.jpg": os.urandom(2000 + i) for i in range(10)}
    for key, data in files.items():
        s3.client.put_object(Bucket="photos", Key=key, Body=data)
    s3.client.put_object(Bucket="photos", Key="set/read.me", Body=b"text")
    s3.client.put_object(Bucket="photos", Key="other/11.jpg", Body=b"not ours")
    return files


@pytest.fixture
def pack(s3: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tar that comes in seven parts."""
    monkeypatch.setattr(module, "PART_BYTES", 5000)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for i in range(10):
            info = tarfile.TarInfo(f"{i}.jpg")
            info.size = 1500
            tar.addfile(info, io.BytesIO(os.urandom(1500)))
    s3.client.put_object(Bucket="photos", Key="packs/a.tar", Body=data.getvalue(), ChecksumAlgorithm="SHA256")
    return data.getvalue()


def all_members(source: S3Source, folder: Path) -> dict[str, tuple[int, object]]:
    found = {}
    for pack in source.plan().packs:
        source.fetch(pack, folder)
        for held_out in (False, True):
            for member in source.members(pack, folder, held_out=held_out):
                found[member.file_name] = (member.image_id, member.data)
    return found


@pytest.mark.parametrize("faults", [[], ["500", "cut", "503", "stall"]])
def test_loose_photographs_come_in_groups_whatever_the_service_does(s3, loose, tmp_path, faults):
    source = source_of()
    plan = source.plan()
    assert [pack.name for pack in plan.packs] == ["photographs-00000", "photographs-00001", "photographs-00002"]
    assert "1 objects left out" in plan.notes[0]
    s3.faults.next = list(faults)
    found = all_members(source, tmp_path)
    assert {name: data for name, (_, data) in found.items()} == loose
    assert len({image_id for image_id, _ in found.values()}) == 10
    assert len(s3.faults.paths) == 10 + len(faults)


@pytest.mark.parametrize("faults", [[], ["500", "cut", "503", "stall"]])
def test_a_pack_comes_in_parts_whatever_the_service_does(s3, pack, tmp_path, faults):
    source = source_of("s3://photos/packs/")
    (planned,) = source.plan().packs
    s3.faults.next = list(faults)
    digest = source.fetch(planned, tmp_path)
    assert (tmp_path / "pack-00000").read_bytes() == pack
    assert digest == f"sha256:{hashlib.sha256(pack).hexdigest()}"
    assert {path.rpartition("bytes=")[2] for path in s3.faults.paths} == {
        f"{start}-{min(start + 5000, len(pack)) - 1}" for start in range(0, len(pack), 5000)
    }
    assert len(all_members(source, tmp_path)) == 10


def test_finished_parts_are_not_fetched_again(s3, pack, tmp_path):
    source = source_of("s3://photos/packs", patience=Patience(attempts=1, timeout=1))
    (planned,) = source.plan().packs
    s3.faults.next = ["", "", "403"]
    with pytest.raises(SohesError, match="refused"):
        source.fetch(planned, tmp_path)
    noted = (tmp_path / "pack-00000.parts").read_text().splitlines()[1:]
    assert noted
    s3.faults.paths.clear()
    source.fetch(planned, tmp_path)
    assert (tmp_path / "pack-00000").read_bytes() == pack
    starts = {path.rpartition("bytes=")[2].partition("-")[0] for path in s3.faults.paths}
    assert not starts & set(noted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pack-00000", "pack-00000.lock"]


def test_after_a_flipped_bit_the_pack_is_fetched_again(s3, pack, tmp_path):
    source = source_of("s3://photos/packs")
    (planned,) = source.plan().packs
    s3.faults.next = ["flip"]
    source.fetch(planned, tmp_path)
    assert (tmp_path / "pack-00000").read_bytes() == pack
    (tmp_path / "pack-00000").unlink()
    s3.faults.next = ["flip"] * 20
    with pytest.raises(SohesError, match="wrong checksum, 2 times"):
        source.fetch(planned, tmp_path)


def test_an_object_that_changed_meanwhile_is_refused(s3, pack, tmp_path):
    source = source_of("s3://photos/packs")
    (planned,) = source.plan().packs
    s3.client.put_object(Bucket="photos", Key="packs/a.tar", Body=os.urandom(len(pack)))
    with pytest.raises(SohesError, match="changed since it was listed"):
        source.fetch(planned, tmp_path)


def test_requests_offer_to_pay(s3, loose, monkeypatch):
    asked = []
    original = module._translated
    source = source_of(requester_pays=True)
    assert source._payer() == {"RequestPayer": "requester"}
    monkeypatch.setattr(S3Source, "_payer", lambda self: asked.append(1) or {"RequestPayer": "requester"})
    (first, *_) = source.plan().packs
    list(source.members(first, Path("unused"), held_out=False))
    assert len(asked) >= 3  # the listing, and each photograph
    assert module._translated is original


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("s3://nowhere/x", r"s3://nowhere/x was refused \(404 NoSuchBucket\)"),
        ("s3://photos/empty", "no photographs and no archives under s3://photos/empty"),
        ("http://photos/x", "must look like s3://bucket/prefix"),
    ],
)
def test_a_wrong_address_is_reported(s3, uri, sentence):
    with pytest.raises(SohesError, match=sentence):
        source_of(uri).plan()


def test_missing_credentials_are_reported(s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SohesError, match="set up AWS credentials"):
        source_of().plan()


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("AWS_PROFILE", "nosuch", r"The config profile \(nosuch\) could not be found"),
        ("AWS_ENDPOINT_URL", "minio:9000", "Invalid endpoint: minio:9000"),
        ("AWS_DEFAULT_REGION", "us east", "us east"),
        ("AWS_SECRET_ACCESS_KEY", None, "Partial credentials found in env"),
        ("AWS_CONFIG_FILE", "damaged", "Unable to parse config file"),
    ],
)
def test_wrong_settings_are_one_sentence(s3, monkeypatch, tmp_path, variable, value, sentence):
    module._client.cache_clear()
    if value == "damaged":
        value = str(tmp_path / "config")
        Path(value).write_text("no heading\n")
    monkeypatch.delenv(variable) if value is None else monkeypatch.setenv(variable, value)
    with pytest.raises(SohesError, match=sentence) as raised:
        source_of().plan()
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("s3://photos/set: ")


def test_every_character_of_a_prefix_is_itself(s3):
    for key in ("album#1/a.jpg", "album?2/b.jpg", "album%203/c.jpg", "album/d.jpg"):
        s3.client.put_object(Bucket="photos", Key=key, Body=b"photograph")
    for prefix, key in (("album#1", "album#1/a.jpg"), ("album?", "album?2/b.jpg"), ("/album%", "album%203/c.jpg")):
        (pack,) = source_of(f"s3://photos/{prefix}").plan().packs
        assert [item.key for item in pack.objects] == [key]


def test_hidden_objects_and_macs_twins_are_no_photographs(s3, tmp_path):
    twin = io.BytesIO()
    with zipfile.ZipFile(twin, "w") as archive:
        for name in ("a.jpg", "__MACOSX/._a.jpg"):
            archive.writestr(name, b"data")
    objects = {".hidden.jpg": b"", ".trash/b.zip": b"", "photographs-2024.zip": twin.getvalue(), "c.jpg": b"data"}
    for key, data in objects.items():
        s3.client.put_object(Bucket="photos", Key=f".shown/{key}", Body=data)
    source = source_of("s3://photos/.shown/")
    assert list(all_members(source, tmp_path)) == [".shown/photographs-2024.zip/a.jpg", ".shown/c.jpg"]
    assert "2 objects left out" in source.plan().notes[0]


def test_an_object_too_large_for_a_photograph_is_not_fetched(s3, loose, tmp_path, monkeypatch):
    monkeypatch.setattr(module.unpack, "MAX_MEMBER_BYTES", 2004)
    found = all_members(source_of(), tmp_path)
    assert sum(isinstance(data, UnreadableImage) for _, data in found.values()) == 5
    assert len(s3.faults.paths) == 5
