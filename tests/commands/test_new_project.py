import os
import shlex
import subprocess
import sys

import pytest
import yaml

from flows.deploy import chosen
from sohes.commands import stages
from sohes.commands.new_project import graph_without_source, make_project
from sohes.pipeline import CODE, STAGES
from sohes.project import Project, require_git
from sohes.work.files import digest_file


def test_an_empty_folder_becomes_a_project_once(tmp_path):
    made = make_project(tmp_path)
    names = [str(path.relative_to(tmp_path)) for path in made]
    assert {"dvc.yaml", ".dvc/config", ".gitignore", "README.md", "infra/launch/slurm.yaml"} <= set(names)
    assert [path for path in made if not path.exists()] == []
    deployments = chosen(Project(tmp_path), [])  # with what Prefect's server needs for them
    assert "local" in [deployment["name"] for deployment in deployments]
    assert Project(tmp_path).automations.exists()
    require_git(tmp_path)  # which would refuse a folder in no repository
    assert make_project(tmp_path) == []


def test_what_is_there_stays_as_it_is(tmp_path):
    for name in ("README.md", ".gitignore"):
        (tmp_path / name).write_text("mine")
    made = make_project(tmp_path)
    assert not {tmp_path / "README.md", tmp_path / ".gitignore"} & set(made)
    assert {(tmp_path / name).read_text() for name in ("README.md", ".gitignore")} == {"mine"}


def test_a_folder_inside_of_a_git_or_dvc_project_uses_what_is_around_it(tmp_path):
    (tmp_path / ".git").mkdir()
    make_project(tmp_path)
    assert "no_scm" not in (Project(tmp_path).dvc / "config").read_text()
    inside = tmp_path / "inside"
    inside.mkdir()
    make_project(inside)
    assert Project(inside).graph.exists()
    assert not Project(inside).dvc.exists()


def test_a_folder_with_a_graph_is_a_project_already(tmp_path):
    Project(tmp_path).graph.touch()
    assert make_project(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]


def test_the_graph_is_that_of_the_checkout_with_notes_in_place_of_source_files(repository):
    before = yaml.safe_load((repository / "dvc.yaml").read_text())
    after = graph_without_source()
    assert list(after["stages"]) == [CODE, *STAGES]
    noted = [next(iter(out)) for out in after["stages"][CODE]["outs"]]
    for name, stage in before["stages"].items():
        new = after["stages"][name]
        assert {key: new[key] for key in new if key != "deps"} == {key: stage[key] for key in stage if key != "deps"}
        others = [dep for dep in stage["deps"] if not dep.startswith("sohes/")]
        assert new["deps"] == [str(Project(repository).code(name).relative_to(repository)), *others]
        assert new["deps"][0] in noted
    assert after["plots"] == before["plots"]


def test_dvc_draws_the_graph_with_the_notes_before_every_stage(tmp_path):
    make_project(tmp_path)
    command = [sys.executable, "-m", "dvc", "dag", "--dot"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in STAGES:
        assert f'"{CODE}" -> "{name}"' in done.stdout


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("data/sources/folder.py", ["pull"]),
        ("losses/criterion.py", ["instruct", "correct"]),
        ("evaluate/report.html", ["report"]),
        ("work/files.py", []),
    ],
)
def test_a_note_changes_with_the_code_of_its_stage_alone(file, stale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)

    def notes() -> dict[str, str]:
        stages.code()
        return {stage: project.code(stage).read_text() for stage in STAGES}

    before = notes()
    assert notes() == before
    edited = stages.PACKAGE / file
    assert edited.exists()
    monkeypatch.setattr(stages, "digest_file", lambda path: "edited" if path == edited else digest_file(path))
    after = notes()
    assert [stage for stage in STAGES if after[stage] != before[stage]] == stale


def test_the_readme_of_a_project_names_commands_that_exist(tmp_path):
    make_project(tmp_path)
    lines = Project(tmp_path).readme.read_text().splitlines()
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("    ")]
    assert len(lines) <= 12
    assert len(commands) >= 4
    modules = [["-m", "sohes", command[1]] for command in commands if command[0] == "sohes"]
    modules += [command[1:3] for command in commands if command[0] == "python"]
    for module in modules:
        done = subprocess.run(
            [sys.executable, *module, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
