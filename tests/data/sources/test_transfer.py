import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sohes.data.sources import transfer
from sohes.data.sources.transfer import LinkRefused, Patience, check_disk, fetch, shown
from sohes.errors import SohesError
from sohes.work.files import digest_file

HASTY = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, timeout=2)  # a busy machine may take a second


@pytest.fixture
def pack(web: SimpleNamespace) -> bytes:
    data = os.urandom(8 * 2**20 + 700_000)
    (web.folder / "pack.tar").write_bytes(data)
    return data


def bring(web: SimpleNamespace, tmp_path: Path, digest: str | None = None) -> bytes:
    fetch(f"{web.url}/pack.tar?signature=hush", tmp_path / "here/pack.tar", digest=digest, patience=HASTY)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["pack.tar", "pack.tar.lock"]
    return (tmp_path / "here/pack.tar").read_bytes()


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["500", "503"],
        ["429", "cut"],
        ["cut", "cut", "500", "cut", "cut"],  # more than three, but with progress before each cut
        ["stall"],
        ["cut", "whole"],  # a server that starts over
    ],
)
def test_the_bytes_are_right_whatever_the_server_does(web, pack, tmp_path, faults):
    web.faults.next = list(faults)
    assert bring(web, tmp_path) == pack
    assert len(web.faults.paths) == len(faults) + 1 - (faults[-1:] == ["whole"])


def test_an_interrupted_transfer_is_continued(web, pack, tmp_path):
    web.faults.next = ["cut", "500", "500", "500"]
    with pytest.raises(SohesError, match=r"127\.0\.0\.1/pack\.tar: the server answers 500, 3 times in a row: .* kept"):
        bring(web, tmp_path)
    kept = (tmp_path / "here/pack.tar.part").read_bytes()
    assert len(kept) > len(pack) // 3
    assert pack.startswith(kept)
    assert bring(web, tmp_path) == pack


@pytest.mark.parametrize("note", [b"", b'{"total": 3', b"[]", b"{}", bytes(40)])
def test_a_damaged_note_of_what_was_received_starts_the_transfer_over(web, pack, tmp_path, note):
    web.faults.next = ["cut", "500", "500", "500"]
    with pytest.raises(SohesError):
        bring(web, tmp_path)
    (tmp_path / "here/pack.tar.part.json").write_bytes(note)
    assert bring(web, tmp_path) == pack


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(web, pack, tmp_path):
    web.faults.next = ["cut", "500", "500", "500"]
    with pytest.raises(SohesError):
        bring(web, tmp_path)
    other = os.urandom(2**21)
    (web.folder / "pack.tar").write_bytes(other)
    assert bring(web, tmp_path) == other


def test_a_wrong_digest_is_fetched_twice_then_reported(web, pack, tmp_path):
    wrong = "sha256:" + "0" * 64
    with pytest.raises(SohesError, match=f"has the digest sha256:[0-9a-f]+, but {wrong} was expected, twice"):
        bring(web, tmp_path, digest=wrong)
    assert len(web.faults.paths) == 2
    assert not (tmp_path / "here/pack.tar").exists()
    assert bring(web, tmp_path, digest=digest_file(web.folder / "pack.tar")) == pack
    bring(web, tmp_path)
    assert len(web.faults.paths) == 3  # a finished file is not fetched again


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final_and_never_shows_the_signature(web, pack, tmp_path, status):
    web.faults.next = [str(status)]
    with pytest.raises(LinkRefused, match=f"status {status}") as caught:
        bring(web, tmp_path)
    assert caught.value.status == status
    assert "hush" not in str(caught.value)
    assert len(web.faults.paths) == 1


def test_an_unreachable_server_is_reported(tmp_path):
    with pytest.raises(SohesError, match=r"http://127\.0\.0\.1/x: no connection \(NewConnectionError\), 3 times"):
        fetch("http://127.0.0.1:9/x?secret", tmp_path / "x", patience=HASTY)


def test_a_file_that_does_not_fit_is_not_started(web, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(
        SohesError, match=r"pack\.tar needs 17\.3 MiB on the disk of .* only 1\.0 are free: free some space"
    ):
        bring(web, tmp_path)
    assert not (tmp_path / "here/pack.tar.part").exists()


def test_a_local_file_is_copied(tmp_path):
    (tmp_path / "a b.zip").write_bytes(b"zip")
    assert fetch((tmp_path / "a b.zip").as_uri(), tmp_path / "c/d.zip") == digest_file(tmp_path / "a b.zip")
    with pytest.raises(SohesError, match="no such file"):
        fetch((tmp_path / "none.zip").as_uri(), tmp_path / "c/e.zip")
    with pytest.raises(SohesError, match="only https, http and file"):
        fetch("ftp://host/x", tmp_path / "c/e.zip")


def test_the_disk_check_accepts_a_folder_that_does_not_exist_yet(tmp_path):
    check_disk(tmp_path / "a/b/c", shutil.disk_usage(tmp_path).free // 2, "this")
    with pytest.raises(SohesError, match="this needs"):
        check_disk(tmp_path / "a/b/c", 2**60, "this")


def test_a_shown_link_has_neither_user_nor_signature():
    assert shown("https://me:pw@host/a.tar?X-Amz-Signature=1") == "https://host/a.tar"


def test_pauses_grow_and_stay_below_the_longest():
    patience = Patience(first_wait=1, longest_wait=8)
    assert [patience.wait(n) <= 2 ** (n - 1) for n in (1, 2, 3)] == [True] * 3
    assert max(patience.wait(20) for _ in range(50)) <= 8
    assert min(patience.wait(20) for _ in range(50)) >= 4
