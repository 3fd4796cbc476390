from datetime import date
from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.project import Project, read_json, read_mapping, require


def test_a_card_lies_beside_its_model():
    project = Project(Path("somewhere"))
    assert project.model("correct") == Path("somewhere/models/correct.safetensors")
    assert project.card("correct") == Path("somewhere/models/correct.json")


def test_what_is_there_is_returned_and_what_is_not_names_the_command_that_makes_it(tmp_path):
    assert require(tmp_path, "images", "pull") == tmp_path
    absent = tmp_path / "absent"
    with pytest.raises(SohesError, match=f"^no images at {absent}: run `sohes pull` first$"):
        require(absent, "images", "pull")


@pytest.mark.parametrize(
    ("text", "value"),
    [("n: 0755", 755), ("n: 1_000", 1000), ("n: 10:30", "10:30"), ("n: 3e-4", 3e-4), ("\ufeffn: 1", 1)],
)
def test_numbers_are_what_dvc_reads_too(tmp_path, text, value):
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "params.yaml"
    path.write_text(text, "utf-8")
    assert read_mapping(path)["n"] == value
    if not text.startswith("\ufeff"):
        assert load_yaml(str(path))["n"] == value


def no_such_day() -> str:
    """What this Python says of it: 3.14 has other words."""
    with pytest.raises(ValueError, match="day") as caught:
        date(2026, 2, 31)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pull: {source: scenes, source: folder}", 'duplicate key "source" in line 1: remove one of the two'),
        ("a:\n  b: 1\nc: 2\na: 3\n", 'duplicate key "a" in line 4: remove one of the two'),
        ("a: 2026-02-31", f"is not valid YAML: {no_such_day()}"),
        ("a: !!python/name:os.system x", "is not valid YAML: could not determine a constructor"),
        ("a: 1\n---\na: 2\n", "is not valid YAML: expected a single document"),
        ("a: \x00", "is not valid YAML: unacceptable character"),
    ],
)
def test_yaml_that_means_two_things_or_nothing_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "launch.yaml"
    path.write_text(text)
    with pytest.raises(SohesError) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b'{"digest": 1', "not valid JSON: Expecting"),
        (b"[" * 100_000, "not valid JSON: "),
        (bytes(512), "not valid JSON: "),  # what a power cut can leave
        (b"\x93", "not valid JSON: "),
        (b"3", "it is no object"),
        (b'["digest"]', "it is no object"),
        (b"{}", "it lacks digest"),
    ],
)
def test_a_damaged_file_of_ours_is_named_with_what_makes_it_again(tmp_path, content, fault):
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(SohesError) as caught:
        read_json(path, "run `sohes instruct` again", needs=["digest"])
    assert str(caught.value).startswith(f"{path} is damaged ({fault}")
    assert str(caught.value).endswith("): run `sohes instruct` again")


def test_json_of_ours_may_have_been_saved_by_an_editor(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf[1, 2]\r\n")
    assert read_json(path, "", list) == [1, 2]
