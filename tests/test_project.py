from pathlib import Path

import pytest

from sohes.errors import SohesError
from sohes.project import Project, require


def test_a_card_lies_beside_its_model():
    project = Project(Path("somewhere"))
    assert project.model("correct") == Path("somewhere/models/correct.safetensors")
    assert project.card("correct") == Path("somewhere/models/correct.json")


def test_what_is_there_is_returned_and_what_is_not_names_the_command_that_makes_it(tmp_path):
    assert require(tmp_path, "images", "pull") == tmp_path
    absent = tmp_path / "absent"
    with pytest.raises(SohesError, match=f"^no images at {absent}: run `sohes pull` first$"):
        require(absent, "images", "pull")
