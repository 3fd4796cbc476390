"""dvc.yaml against the code: a stage that uses a file which DVC does not watch would stay fresh by mistake."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sohes.pipeline import STAGES
from sohes.project import Project
from sohes.work.origin import code_of


@pytest.fixture(scope="module")
def stages(repository: Path) -> dict:
    return yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]


def used_files(stage: str) -> set[Path]:
    """Source files that the stage's module imports, at whatever distance."""
    return set(code_of(f"sohes.stages.{stage}", unwatched=STAGES[stage].unwatched))


def test_the_stages_are_the_projects_words_in_their_order(stages):
    assert list(stages) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_command_and_sections_are_those_of_the_table(stage, stages):
    assert stages[stage]["cmd"] == f"python -m sohes {stage}"
    assert stages[stage]["params"] == ["seed", *STAGES[stage].sections]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_cost_is_an_output_that_the_report_shows(stage, stages):
    cost = str(Project(Path()).cost(stage))
    assert cost in stages[stage]["outs"]
    assert stage == "report" or cost in stages["report"]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_code_that_a_stage_uses_and_no_other(stage, stages, repository):
    watched = [repository / dep for dep in stages[stage]["deps"] if dep.startswith("sohes/")]
    used = used_files(stage)
    missed = [str(f.relative_to(repository)) for f in used if not any(f.is_relative_to(path) for path in watched)]
    assert not missed, f"add to dvc.yaml, deps of {stage}"
    code = [path for path in watched if path.is_dir() or path.suffix == ".py"]
    needless = [str(p.relative_to(repository)) for p in code if not any(f.is_relative_to(p) for f in used)]
    assert not needless, f"remove from dvc.yaml, deps of {stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_compares_at_its_end_the_files_that_dvc_watches(stage, stages):
    compared = {*map(str, STAGES[stage].reads), *(f"sohes/{name}" for name in STAGES[stage].resources)}
    watched = {
        dep for dep in stages[stage]["deps"] if not dep.startswith("sohes/") or Path(dep).suffix not in ("", ".py")
    }
    assert compared == watched


def test_dvc_leaves_the_images_alone_where_it_watches_their_manifest(labelling, tiny_params, repository):
    """By the command on the page, for terabytes that nobody wants to hash and copy."""
    (command,) = re.findall(r"^    (sed .*dvc\.yaml)$", (repository / "docs/scale.md").read_text(), re.MULTILINE)
    subprocess.run(shlex.split(command.replace("sed -i", "sed -i.before")), cwd=labelling, check=True)
    (labelling / "models").mkdir()
    (labelling / "params.yaml").write_text(yaml.safe_dump(tiny_params))

    def dvc(*arguments: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "SOHES_WORKERS": "1"}
        words = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(words, cwd=labelling, env=environment, capture_output=True, text=True, check=True).stdout

    dvc("repro", "pull")
    manifest = labelling / "data/images/manifest.arrow"
    kept = {path.read_bytes() for path in (labelling / ".dvc/cache/files/md5").rglob("*") if path.is_file()}
    assert manifest.read_bytes() in kept
    assert (labelling / "data/images/images-00000.tar").read_bytes() not in kept
    assert dvc("status", "pull").strip() == "Data and pipelines are up to date."
    tiny_params["pull"]["scenes"]["train"] += 1
    (labelling / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    before = manifest.read_bytes()
    dvc("repro", "pull")
    assert manifest.read_bytes() != before
    assert "manifest.arrow" in dvc("status", "explore")  # so what is made of the images is made again


def test_every_output_has_one_producer_and_lies_where_git_does_not_look(stages, repository):
    outputs = []
    for stage in stages.values():
        entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
        outputs += [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    assert len(outputs) == len(set(outputs))
    ignored = (repository / ".gitignore").read_text().splitlines()
    for output in outputs:
        assert f"/{Path(output).parts[0]}/" in ignored
