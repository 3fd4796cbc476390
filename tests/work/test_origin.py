import os
import shutil
from pathlib import Path

import pytest
import yaml

from sohes.errors import TemporaryError
from sohes.params import load_params
from sohes.work.origin import Origin, stamps


@pytest.fixture
def begun(tmp_path: Path, repository: Path):
    """Work that has begun, with params, code and an input folder in `tmp_path`, and an unfinished part."""
    file, code, inputs = tmp_path / "mine.yaml", tmp_path / "merge.py", tmp_path / "labels"
    shutil.copy(repository / "params.yaml", file)
    code.write_text("THETA = 1\n")
    (inputs / "deep").mkdir(parents=True)
    for name in ("shard.parquet", "deep/manifest.json"):
        (inputs / name).write_bytes(b"labels")
    (tmp_path / "unfinished").mkdir()

    def begin() -> Origin:
        return Origin(
            "explore",
            load_params(file),
            file,
            sections=["explore"],
            code=[code],
            inputs=[inputs, tmp_path / "absent"],
            load=load_params,
            unfinished=tmp_path / "unfinished",
        )

    return begin


def edit(file: Path, section: str, key: str, value: object) -> None:
    values = yaml.safe_load(file.read_text())
    values[section][key] = value
    file.write_text(yaml.safe_dump(values))


def test_nothing_has_changed_where_only_other_sections_words_or_names_have(begun, tmp_path):
    origin = begun()
    edit(tmp_path / "mine.yaml", "instruct", "steps", 7)
    (tmp_path / "mine.yaml").write_text("# a comment\n" + (tmp_path / "mine.yaml").read_text())
    (tmp_path / "merge.py").touch()  # code counts by its content
    (tmp_path / "labels/__pycache__").mkdir()
    (tmp_path / "labels/__pycache__/x.pyc").touch()
    origin.check()


@pytest.mark.parametrize("place", ["labels/shard.parquet", "labels/deep/manifest.json", "labels/new.json", "absent"])
def test_an_input_that_was_replaced_added_or_made_is_named_and_what_may_have_seen_it_removed(begun, tmp_path, place):
    origin = begun()
    (tmp_path / place).write_bytes(b"others")  # as many bytes as before
    os.utime(tmp_path / place, ns=(1, 1))
    with pytest.raises(TemporaryError, match=rf"{place} changed while explore ran.*nothing is recorded, run the same"):
        origin.check()
    assert not (tmp_path / "unfinished").exists()


def test_an_input_that_is_gone_is_named(begun, tmp_path):
    origin = begun()
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(TemporaryError, match=r"labels/deep/manifest\.json changed while"):
        origin.check()


def test_a_number_that_was_edited_is_named_and_leaves_the_finished_parts(begun, tmp_path):
    origin = begun()
    edit(tmp_path / "mine.yaml", "explore", "theta_cover", 0.8)
    with pytest.raises(TemporaryError, match=r"^explore in .*mine\.yaml changed while explore ran"):
        origin.check()
    assert (tmp_path / "unfinished").exists()
    edit(tmp_path / "mine.yaml", "explore", "theta_cover", 0.9)
    origin.check()  # it is again what the work began with


@pytest.mark.parametrize("text", ["explore: [", "", None])
def test_params_that_are_half_written_or_gone_have_changed(begun, tmp_path, text):
    origin = begun()
    (tmp_path / "mine.yaml").unlink()
    if text is not None:
        (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TemporaryError, match=r"mine\.yaml changed while"):
        origin.check()


@pytest.mark.parametrize("text", ["THETA = 2\n", None])
def test_code_that_was_edited_or_removed_is_named(begun, tmp_path, text):
    origin = begun()
    (tmp_path / "merge.py").write_text(text) if text else (tmp_path / "merge.py").unlink()
    with pytest.raises(TemporaryError, match=r"merge\.py changed while"):
        origin.check()


def test_a_folder_that_is_linked_is_looked_into_and_a_loop_of_links_ends(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_text("a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/linked").symlink_to(tmp_path / "real")
    (tmp_path / "here/again").symlink_to(tmp_path / "here")
    found = stamps([tmp_path / "here"])
    assert [path.name for path in found] == ["a"]
    assert all(found.values())
