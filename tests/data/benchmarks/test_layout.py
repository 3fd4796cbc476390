import pytest

from sohes.data.benchmarks import layout
from sohes.errors import SohesError


def test_the_first_place_that_exists_is_taken(tmp_path):
    (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    assert layout.find(tmp_path, "a", "b", "c", name="x") == tmp_path / "b"
    with pytest.raises(SohesError, match="does not hold x: there is no a or d in it"):
        layout.find(tmp_path, "a", "d", name="x")


def test_a_file_is_looked_for_in_the_folders_and_then_in_the_root(tmp_path):
    (tmp_path / "one.jpg").write_bytes(b"root")
    assert layout.read_file(tmp_path, "images", name="one.jpg") == b"root"
    (tmp_path / "images").mkdir()
    (tmp_path / "images/one.jpg").write_bytes(b"images")
    assert layout.read_file(tmp_path, "images", name="one.jpg") == b"images"


def test_ids_are_the_digits_of_a_name():
    assert layout.number("ADE_val_00000012.jpg") == 12
    assert layout.number("2008_000652.mat") == 2008000652
    with pytest.raises(SohesError, match="no digit"):
        layout.number("cat.jpg")
