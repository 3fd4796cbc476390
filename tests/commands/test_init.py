from pathlib import Path

import pytest

from sohes.commands import init
from sohes.commands.init import MEASURED, how_many
from sohes.params import load_params


@pytest.mark.parametrize("count", [1, 948])
def test_few_photographs_are_told_the_figures_and_what_to_do_instead(count):
    figures, instead = how_many(count, Path("my photos"))
    assert figures.startswith(f"Photographs here: {count}. Training wants at least 949: ")
    assert "`sohes segment 'my photos'`" in instead
    assert "`sohes label 'my photos'`" in instead


def test_many_photographs_are_trained_on_without_a_word():
    assert how_many(949, Path("photos")) == []


def test_the_figures_are_those_of_the_documentation(repository):
    lines = (repository / "docs/faq.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    told = {row[0]: (float(row[2]), float(row[3])) for row in rows if row and row[0].endswith("9 photographs")}
    told |= {row[0]: (float(row[2]), float(row[3])) for row in rows if row and row[0] == "106 photographs"}
    assert told == {f"{count} photographs": figures for count, figures in MEASURED.items()}


@pytest.mark.parametrize(
    ("fault", "gpu", "profile", "words"),
    [
        (None, True, "photographs", "minutes for a thousand photographs"),
        (None, False, "photographs", "on a CPU 4 seconds a photograph"),
        ("the hub is far", False, "demo", "cannot be had (the hub is far); `--profile photographs` and"),
    ],
)
def test_the_profile_is_chosen_by_what_the_machine_has(monkeypatch, fault, gpu, profile, words):
    monkeypatch.setattr(init, "out_of_reach", lambda weights: fault)
    monkeypatch.setattr(init, "has_gpu", lambda: gpu)
    chosen, why = init.choose()
    assert chosen == profile
    assert why.startswith(f"Profile {profile}, ")
    assert words in why


def test_a_profile_that_is_there_stays(monkeypatch, tmp_path, repository):
    monkeypatch.setattr(init, "out_of_reach", lambda weights: None)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    params = tmp_path / "params.yaml"
    for given, seed in (("params.yaml", 0), ("params.yaml", 3), ("params/one-gpu.yaml", 0)):
        params.write_text((repository / given).read_text().replace("seed: 0", f"seed: {seed}"))
        init.init(images=tmp_path / "photos", annotations=None, profile=None, params=params)
        chosen = repository / ("params/photographs.yaml" if (given, seed) == ("params.yaml", 0) else given)
        wanted = load_params(chosen).model_copy(update={"seed": seed})
        assert load_params(params).model_dump(exclude={"pull"}) == wanted.model_dump(exclude={"pull"})


@pytest.mark.parametrize(
    ("params", "is_project"), [("params.yaml", True), ("{}/params.yaml", True), ("conf/params.yaml", False)]
)
def test_wherever_the_params_are_the_paths_are_the_projects(params, is_project, monkeypatch, tmp_path):
    monkeypatch.setattr(init, "out_of_reach", lambda weights: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").touch()
    file = Path(params.format(tmp_path))
    init.init(images=Path("photos"), annotations=None, profile=None, params=file)
    assert load_params(file).pull.folder.images == Path("photos")
    assert (tmp_path / "dvc.yaml").exists() is is_project
