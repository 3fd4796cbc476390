import json
import os
from pathlib import Path

import pytest

from sohes.work.files import atomic_path, digest_file, fitted, require_writable, write_file, write_json


def test_atomic_path_replaces_the_file_and_leaves_nothing_else(tmp_path):
    target = tmp_path / "new folder" / "labels.parquet"
    for text in ("first", "second"):
        with atomic_path(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.suffix == ".parquet"
            temporary.write_text(text)
        assert target.read_text() == text
    assert [p.name for p in target.parent.iterdir()] == ["labels.parquet"]


def test_an_error_keeps_the_old_file(tmp_path):
    target = tmp_path / "state.pt"
    target.write_text("old")
    with (
        pytest.raises(UnicodeEncodeError),
        atomic_path(target) as temporary,
        temporary.open("w", encoding="ascii") as file,
    ):
        file.writelines(["new, but h", "älf"])
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.bin"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_digest_file_is_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2's example
    assert digest_file(path) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_json_has_one_form_for_one_value(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "ä"})
    write_json(tmp_path / "b.json", {"a": "ä", "b": [1, 2.5]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "ä", "b": [1, 2.5]}


def test_write_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"AR": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["n" * 255, "n" * 250 + ".json", "写" * 85, "😀" * 62 + ".png", "a." + "s" * 253, "\udcff" * 255]
)
def test_a_file_of_any_allowed_name_is_written(tmp_path, name):
    write_file(tmp_path / name, "content")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "content")]


@pytest.mark.parametrize("letter", ["n", "é", "写", "😀", "\udcff"])
def test_a_long_name_is_cut_and_stays_unique(letter):
    names = [letter * count for count in range(1, 300)]
    short = [fitted(name, 100) for name in names]
    assert all(len(os.fsencode(name)) <= 100 for name in short)
    assert len(set(short)) == len(names)
    assert short[0] == letter


def test_a_folder_that_cannot_be_written_to_is_an_error_at_once(tmp_path):
    require_writable(tmp_path / "new/folder")
    assert list((tmp_path / "new/folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        require_writable(tmp_path / "file")
    with pytest.raises(OSError, match="proc"):
        require_writable(Path("/proc/sohes"))
