import pytest

from sohes.work.publish import new_folder, publish_folder


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
