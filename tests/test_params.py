from pathlib import Path

import pytest
import yaml

from sohes.errors import SohesError
from sohes.params import TEMPLATE, load_params, load_params_anywhere

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["params.yaml", *sorted(f"params/{path.name}" for path in ROOT.glob("params/*.yaml"))])
def test_every_profile_is_valid(name):
    load_params(ROOT / name)


def changed(tmp_path, change):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(raw)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: p["explore"].pop("theta_small"), "missing key explore.theta_small"),
        (lambda p: p["explore"].update(theta_smal=1), "unknown key explore.theta_smal"),
        (lambda p: p["explore"].update(theta_cover=1.5), "explore.theta_cover"),
        (lambda p: p["explore"].update(theta_merge=[0.1, 0.2]), "theta_merge must fall strictly"),
        (lambda p: p["pull"].update(source="ftp"), "pull.source"),
    ],
)
def test_an_error_names_the_key(tmp_path, change, sentence):
    path = changed(tmp_path, change)
    with pytest.raises(SohesError, match=sentence):
        load_params(path)


def test_a_missing_file_and_invalid_yaml_are_reported(tmp_path):
    with pytest.raises(SohesError, match="no params file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(SohesError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("seed: 0  # f\u00fcr".encode("latin-1"), "is not UTF-8 text \\(byte 12\\): save it as UTF-8"),
        (b"", "is empty: fix it"),
        (b"# nothing but a comment\n", "is empty: fix it"),
        (b"- seed", "is a list and not a mapping of keys to values: fix it"),
    ],
)
def test_a_file_without_keys_is_reported(tmp_path, data, sentence):
    (tmp_path / "params.yaml").write_bytes(data)
    with pytest.raises(SohesError, match=sentence):
        load_params(tmp_path / "params.yaml")


def test_the_paper_profile_has_the_papers_numbers():
    paper = load_params(ROOT / "params/paper.yaml")
    assert paper.explore.theta_merge == (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    assert paper.explore.theta_small == 1 / 1024
    assert (paper.instruct.batch_size, paper.instruct.steps) == (128, 40000)
    assert (paper.correct.steps, paper.correct.teacher_momentum, paper.correct.gamma) == (5000, 0.9995, 200)


def test_without_a_project_the_profile_that_comes_with_the_code_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_params_anywhere(Path("params.yaml")) == load_params(TEMPLATE)
    with pytest.raises(SohesError, match=r"no params file at mine\.yaml"):
        load_params_anywhere(Path("mine.yaml"))  # a file named explicitly must exist
    (tmp_path / "params.yaml").write_text(TEMPLATE.read_text().replace("seed: 0", "seed: 7", 1))
    assert load_params_anywhere(Path("params.yaml")).seed == 7
