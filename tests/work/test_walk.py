from pathlib import Path

import pytest

from sohes.work.walk import Walk, walk


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_files_at_any_depth_without_hidden_ones(tmp_path):
    touch(tmp_path, "b", "a/c", "a/d/e.txt", ".hidden", ".git/config", "a/.cache/x")
    assert walk(tmp_path) == Walk(["b", "a/c", "a/d/e.txt"], {})
    assert walk(tmp_path, leave_out=tmp_path / "a").files == ["b"]
    assert walk(tmp_path, leave_out=tmp_path).files == []


def test_links_to_folders_are_followed_once(tmp_path):
    touch(tmp_path, "album/deep/a", "elsewhere/b")
    (tmp_path / "album/deep/up").symlink_to(tmp_path / "album")
    (tmp_path / "album/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "album/two").symlink_to(tmp_path / "elsewhere")
    assert walk(tmp_path / "album") == Walk(["deep/a", "one/b"], {})


def test_what_cannot_be_looked_into_has_its_reason(tmp_path):
    touch(tmp_path, "a")
    (tmp_path / "album").symlink_to(tmp_path / "unmounted")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "photo.png").symlink_to(tmp_path / "gone.png")
    found = walk(tmp_path)
    assert found.files == ["a", "photo.png"]
    assert found.unread.keys() == {"album", "loop"}
    assert found.unread["album"] == "a link to nothing"


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        walk(tmp_path / "gone")
