import errno
import shutil
import tempfile
from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.work.publish import new_folder, publish_folder, require_replaceable, unfinished


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    folder = Path(tempfile.mkdtemp(dir=shared_memory))
    yield folder
    shutil.rmtree(folder)


def write(folder, text):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text(text)
    return folder


def test_a_new_folder_replaces_the_old_one_whole(tmp_path):
    for text in ("first", "second"):
        with new_folder(tmp_path / "deep/store") as temporary:
            assert temporary.parent == tmp_path / "deep"
            (temporary / text).write_text(text)
    assert [path.name for path in (tmp_path / "deep/store").iterdir()] == ["second"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["store"]


def test_an_error_keeps_the_old_folder(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/old").touch()
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "store") as temporary:
        (temporary / "half").rename(temporary / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["old"]


def test_a_finished_folder_moves_into_place(tmp_path):
    (tmp_path / "work/finished").mkdir(parents=True)
    publish_folder(tmp_path / "work/finished", tmp_path / "data/images")
    assert (tmp_path / "data/images").is_dir()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("there", [False, True], ids=["a link to nothing", "a link to a folder"])
def test_what_a_link_points_to_is_replaced_and_the_link_stays(tmp_path, there):
    disk = tmp_path / "disk/store"
    if there:
        write(disk, "old")
    (tmp_path / "data").mkdir()
    link = tmp_path / "data/store"
    link.symlink_to(disk)
    require_replaceable(link)
    for text in ("first", "second"):
        publish_folder(write(unfinished(link), text), link)
        assert link.is_symlink()
        assert (disk / "deep/file").read_text() == text
    with new_folder(link) as temporary:
        write(temporary, "third")
    assert (disk / "deep/file").read_text() == "third"
    assert [p.name for p in disk.parent.iterdir()] == ["store"]
    assert [p.name for p in link.parent.iterdir()] == ["store"]


def test_unfinished_work_lies_on_the_disk_that_it_is_for(tmp_path, elsewhere):
    (tmp_path / "data").symlink_to(elsewhere)
    assert unfinished(tmp_path / "data/images").parent == elsewhere
    (tmp_path / "images").symlink_to(elsewhere / "big/images")
    assert unfinished(tmp_path / "images").parent == elsewhere / "big"


def test_a_move_across_file_systems_is_whole_or_absent(tmp_path, elsewhere, monkeypatch):
    publish_folder(write(tmp_path / "one", "first"), elsewhere / "store")
    finished = write(tmp_path / "two", "second")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        with pytest.raises(OSError, match="No space"):
            publish_folder(finished, elsewhere / "store")
    assert (elsewhere / "store/deep/file").read_text() == "first"
    assert (finished / "deep/file").read_text() == "second"
    publish_folder(finished, elsewhere / "store")
    assert (elsewhere / "store/deep/file").read_text() == "second"
    assert not finished.exists()
    assert [p.name for p in elsewhere.iterdir()] == ["store"]


def test_what_cannot_be_replaced_is_named_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SohesError, match="is not a folder"):
        require_replaceable(tmp_path / "file")
    with pytest.raises(SohesError, match="is a mounted disk"):
        require_replaceable(Path("/proc"))
    with pytest.raises(FileExistsError):
        require_replaceable(tmp_path / "file/store")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        require_replaceable(tmp_path / "loop/store")
