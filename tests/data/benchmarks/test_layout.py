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


def test_a_photograph_is_found_under_the_name_of_another_tool(tmp_path):
    for name in ("images/Dog 1.jpg", "images/a/2.jpg", "images/b/2.jpg", "labels/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for written, name in (("D:\\DOG%201.JPG", "images/Dog 1.jpg"), ("/x/A/2.jpg", "images/a/2.jpg")):
        assert layout.read_file(tmp_path, "images", name=written) == name.encode()
    for unknown in ("2.jpg", "c/2.jpg", "dog 1.png", "3.jpg"):
        with pytest.raises(SohesError, match="there is no photograph"):
            layout.read_file(tmp_path, "images", name=unknown)


def test_a_benchmark_with_a_place_that_cannot_be_looked_into_is_an_error(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/sa_2.json").touch()
    (tmp_path / "sa_1.json").touch()
    assert [file.name for file in layout.files_below(tmp_path, "sa_*.json")] == ["sa_1.json", "sa_2.json"]
    (tmp_path / "more").symlink_to(tmp_path / "unmounted")
    with pytest.raises(SohesError, match=r"more cannot be looked into \(a link to nothing\)"):
        layout.files_below(tmp_path, "sa_*.json")


def test_ids_are_the_digits_of_a_name():
    assert layout.number("ADE_val_00000012.jpg") == 12
    assert layout.number("2008_000652.mat") == 2008000652
    with pytest.raises(SohesError, match="no digit"):
        layout.number("cat.jpg")
