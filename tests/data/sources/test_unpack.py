import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from sohes.data.sources.unpack import iter_members, iter_numbered
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError

FILES = {"a.jpg": b"one", "deep/b.jpg": b"two", "notes.txt": b"no"}
EVIL = ("../out.jpg", "/etc/out.jpg", "a/../../out.jpg", "..\\out.jpg")


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w", extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def photographs(path: Path, **limits: int) -> dict[str, object]:
    members = iter_members(path, lambda name: name.endswith(".jpg"), **limits)
    return {name: data.reason if isinstance(data, UnreadableImage) else data for name, data in members}


def test_tar_gzip_and_zip_are_recognised_whatever_their_name(tmp_path):
    wanted = {"a.jpg": b"one", "deep/b.jpg": b"two"}
    assert photographs(write_tar(tmp_path / "plain.tar", FILES)) == wanted
    assert photographs(write_tar(tmp_path / "gzip-inside.tar", FILES, "w:gz")) == wanted
    assert photographs(write_zip(tmp_path / "pack-00001", FILES)) == wanted


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_outside_the_archive_are_reported_and_nothing_is_written(tmp_path, write):
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in/evil", dict.fromkeys(EVIL, b"evil") | {"good.jpg": b"good"})
    found = photographs(path)
    assert found.pop("good.jpg") == b"good"
    assert set(found.values()) == {"its name points outside the archive"}
    assert len(found) == len(EVIL)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil", "in"]


@pytest.mark.parametrize("mode", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_stands_twice_takes_no_other_members_number(tmp_path, mode):
    names = ["a.jpg", "a.jpg", "b.txt", "c.jpg"]
    if mode == "tar":
        with tarfile.open(tmp_path / "twice", "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    else:
        with zipfile.ZipFile(tmp_path / "twice", "w") as archive:
            for name in names:
                archive.writestr(name, b"")
    found = iter_numbered(tmp_path / "twice", lambda name: name.endswith(".jpg"))
    assert [(number, name) for number, name, _ in found] == [(1, "a.jpg"), (2, "a.jpg"), (4, "c.jpg")]


def test_links_and_devices_are_reported(tmp_path):
    odd = []
    kinds = {
        "s": tarfile.SYMTYPE,
        "h": tarfile.LNKTYPE,
        "c": tarfile.CHRTYPE,
        "b": tarfile.BLKTYPE,
        "f": tarfile.FIFOTYPE,
    }
    for name, kind in kinds.items():
        info = tarfile.TarInfo(f"{name}.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append(info)
    found = photographs(write_tar(tmp_path / "odd.tar", {"a.jpg": b"one"}, extra=tuple(odd)))
    assert found.pop("a.jpg") == b"one"
    assert found.keys() == {f"{name}.jpg" for name in kinds}
    assert all("a link or a device" in reason for reason in found.values())
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.jpg", b"one")
    found = photographs(tmp_path / "odd.zip")
    assert found.pop("a.jpg") == b"one"
    assert "a link or a device" in found.pop("link.jpg")
    assert not found


def test_zip_bombs_are_refused(tmp_path):
    bomb = {"a.jpg": bytes(2**21)}
    assert "2 MiB in the archive" in str(photographs(write_zip(tmp_path / "b.zip", bomb), max_member_bytes=2**20))
    with pytest.raises(SohesError, match="unpacks to more than 10 times its size"):
        photographs(write_tar(tmp_path / "b.tar", bomb, "w:gz"), max_ratio=10)
    # A directory that lies about the size.
    path = write_zip(tmp_path / "lies.zip", bomb)
    path.write_bytes(path.read_bytes().replace((2**21).to_bytes(4, "little"), (9).to_bytes(4, "little")))
    assert "damaged in the archive" in str(photographs(path)["a.jpg"])


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_archive_is_reported_as_damaged(tmp_path, mode):
    import random

    noise = random.Random(0).randbytes(50_000)
    path = write_tar(tmp_path / "cut.tar", {"a.jpg": b"one", "b.jpg": noise}, mode)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(SohesError, match=r"the archive cut\.tar is damaged .*: remove it and pull again"):
        photographs(path)


@pytest.mark.parametrize("length", range(1, 30))
def test_a_header_cut_anywhere_is_reported(tmp_path, length):
    path = write_tar(tmp_path / "cut.tar", {"a.jpg": b"one"}, "w:gz")
    header = bytearray(path.read_bytes()[:length])
    if length > 3:
        header[3] = 0xFF  # all optional fields, which the file does not have
    path.write_bytes(header)
    with pytest.raises(SohesError, match=r"the archive cut\.tar is damaged"):
        photographs(path)


def test_a_file_that_is_no_archive_is_reported(tmp_path):
    (tmp_path / "page.zip").write_text("<html>please log in</html>")
    with pytest.raises(SohesError, match=r"page\.zip is damaged"):
        photographs(tmp_path / "page.zip")
