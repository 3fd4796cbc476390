from pathlib import Path

import pytest
from typer.testing import CliRunner

from sohes import cli
from sohes.commands.params import explained
from sohes.errors import SohesError
from sohes.params import load_params, profiles
from sohes.params.schema import described, schema_text
from sohes.project import TEMPLATE


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["params", *arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(params=["in a project", "anywhere"])
def place(request, tmp_path, monkeypatch):
    """A folder with params of its own, and one without: there the demo's count, which come with the code."""
    monkeypatch.chdir(tmp_path)
    if request.param == "in a project":
        text = TEMPLATE.params.read_text()
        Path("params.yaml").write_text(text.replace("seed: 0", "seed: 7", 1).replace("block: -1", "block: -3", 1))
        return load_params(Path("params.yaml"))
    return load_params(TEMPLATE.params)


def test_what_is_printed_is_a_file_of_the_params_in_force(place):
    for arguments, expected in (
        ([], place),
        (["--set", "explore.block=-2"], load_params(TEMPLATE.params, {"seed": place.seed, "explore.block": -2})),
    ):
        Path("printed.yaml").write_text(printed(*arguments))
        assert load_params(Path("printed.yaml")) == expected


def test_a_key_is_explained_with_its_values_here_and_in_every_profile(place):
    said = printed("--explain", "explore.block")
    assert said.splitlines()[:4] == [
        "explore.block",
        "  Backbone block that features come from, counted from the end; -1: the last.",
        "  Type: integer, below 0",
        f"  Here: {place.explore.block}",
    ]
    values = dict(line.removeprefix("  In ").rpartition(": ")[::2] for line in said.splitlines()[4:])
    found = {name: value for names, value in values.items() for name in names.split(", ")}
    assert found == {name: str(load_params(file).explore.block) for name, file in profiles().items()}
    assert "  Here: -9\n" in printed("--explain", "explore.block", "--set", "explore.block=-9")


def test_a_section_is_explained_with_all_that_is_in_it():
    paragraphs = explained("correct.tiles", load_params(TEMPLATE.params))
    titles = [paragraph.splitlines()[0] for paragraph in paragraphs]
    assert titles == ["correct.tiles", *(f"correct.tiles.{name}" for name in ("levels", "overlap", "score_factor"))]
    assert paragraphs[0].splitlines()[1:] == ["  The teacher's closer look."]


def test_every_key_can_be_explained():
    here = load_params(TEMPLATE.params)
    said = [paragraph for section in type(here).model_fields for paragraph in explained(section, here)]
    assert [paragraph.splitlines()[0] for paragraph in said] == list(described())


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(SohesError, match=r"no key explore.theta_marge: did you mean explore\.theta_merge\?"):
        printed("--explain", "explore.theta_marge")


def test_the_schema_is_printed_and_takes_no_key():
    assert printed("--schema") == schema_text()
    with pytest.raises(SohesError, match="leave out --explain and --set"):
        printed("--schema", "--set", "seed=3")
