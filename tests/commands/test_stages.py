"""Every stage, label, results and ablate compare at their end what they began with."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sohes.commands import stages
from sohes.errors import SohesError, TemporaryError
from sohes.params import load_params
from sohes.pipeline import STAGES
from sohes.project import Project


@pytest.fixture
def folder(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params and some file for every input of every stage."""
    shutil.copy(repository / "params.yaml", tmp_path)
    for stage in STAGES.values():
        for path in stage.reads:
            target = tmp_path / path if path.suffix else tmp_path / path / "manifest.arrow"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def meanwhile(monkeypatch: pytest.MonkeyPatch, stage: str, change) -> list[str]:
    """Replace the stage's work by a change from outside; what it did, in words."""
    done: list[str] = []

    def run(params, root, *, unchanged, **options) -> None:
        unchanged()
        change()
        with pytest.raises(TemporaryError):
            unchanged()
        done.append("ran")

    monkeypatch.setattr(importlib.import_module(f"sohes.stages.{stage}"), "run", run)
    return done


def refuses(stage: str, folder: Path, words: str) -> None:
    with pytest.raises(TemporaryError, match=f"{words} changed while {stage} ran"):
        getattr(stages, stage)()
    cost = Project(folder).cost(stage)
    assert not cost.exists() or cost.read_text() == "{}"  # the fixture's


@pytest.mark.parametrize("stage", STAGES)
def test_a_number_that_is_edited_while_a_stage_runs_fails_it(stage, folder, monkeypatch):
    def edit() -> None:
        values = yaml.safe_load(Path("params.yaml").read_text())
        values["seed"] += 1
        Path("params.yaml").write_text(yaml.safe_dump(values))

    done = meanwhile(monkeypatch, stage, edit)
    refuses(stage, folder, r"seed in params\.yaml")
    assert done == ["ran"]


@pytest.mark.parametrize(("stage", "place"), [(name, place) for name, known in STAGES.items() for place in known.reads])
def test_an_input_that_is_replaced_while_a_stage_runs_fails_it(stage, place, folder, monkeypatch):
    file = place if place.suffix else place / "another.parquet"

    def replace() -> None:
        (folder / file).write_text("another")

    monkeypatch.setattr(stages, "code_of", lambda *_, **__: [])  # which takes a moment each time
    meanwhile(monkeypatch, stage, replace)
    refuses(stage, folder, re.escape(str(file)))


def test_code_that_is_edited_while_a_stage_runs_fails_it(folder, monkeypatch):
    code = folder / "merge.py"
    code.touch()
    monkeypatch.setattr(stages, "code_of", lambda *_, **__: [code])
    meanwhile(monkeypatch, "explore", lambda: code.write_text("x = 1"))
    refuses("explore", folder, r"merge\.py")


def test_weights_outside_of_the_project_are_inputs_too(repository, tmp_path, monkeypatch):
    values = load_params(repository / "params.yaml")
    explore = values.explore.model_copy(update={"refiner": "crm"})
    values = values.model_copy(update={"explore": explore})
    monkeypatch.setenv("SOHES_CRM", str(tmp_path / "crm"))
    assert list(stages.named_inputs("explore", values, tmp_path)) == []  # the stage itself says that they are missing
    (tmp_path / "crm").touch()
    assert list(stages.named_inputs("explore", values, tmp_path)) == [tmp_path / "crm"]
    assert list(stages.named_inputs("backbone", values, tmp_path)) == []  # `train` is no file
    taken = values.backbone.model_copy(update={"pretrained": "given/vit.pth"})
    values = values.model_copy(update={"backbone": taken})
    assert list(stages.named_inputs("backbone", values, tmp_path)) == [tmp_path / "given/vit.pth"]
    begun = values.instruct.model_copy(update={"start": "models/mine.safetensors"})
    values = values.model_copy(update={"instruct": begun})
    assert list(stages.named_inputs("instruct", values, tmp_path)) == [tmp_path / "models/mine.safetensors"]


# ---------------------------------------------------------------- --set


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_as_if_the_file_had_what_is_set(stage, folder, monkeypatch):
    seen = []

    def run(params, root, *, unchanged, **options) -> None:
        seen.append(params)
        edited = yaml.safe_load((folder / "params.yaml").read_text()) | {"seed": 5}
        (folder / "params.yaml").write_text(yaml.safe_dump(edited))
        unchanged()  # what is set counts, whatever the file says of it meanwhile
        (folder / "params.yaml").write_text(yaml.safe_dump(edited | {"report": {"pictures": 1}}))
        if "report" in STAGES[stage].sections:
            with pytest.raises(TemporaryError, match=r"report in params\.yaml changed"):
                unchanged()
        (folder / "params.yaml").write_text(yaml.safe_dump(edited))

    monkeypatch.setattr(stages, "code_of", lambda *_, **__: [])
    monkeypatch.setattr(importlib.import_module(f"sohes.stages.{stage}"), "run", run)
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["seed"], values["explore"]["theta_merge"] = 7, [0.5, 0.25]
    Path("written.yaml").write_text(yaml.safe_dump(values))
    getattr(stages, stage)(settings=["seed=7", "explore.theta_merge=[0.5, 0.25]"])
    assert seen == [load_params(Path("written.yaml"))]
    assert Project(folder).cost(stage).read_text() != "{}"


def test_under_dvc_which_records_the_file_nothing_may_be_set(folder, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(folder))
    with pytest.raises(SohesError, match=r"DVC records what params\.yaml says, not --set: .*dvc exp run --set-param"):
        stages.pull(settings=["seed=7"])


def test_labels_made_with_set_are_those_of_a_file_with_that_value(tmp_path, monkeypatch, tiny_params, capsys):
    monkeypatch.setenv("SOHES_WORKERS", "1")
    made = {}
    for name, settings in (("set", ["explore.theta_cover=0.6", "explore.nms_iou=0.8"]), ("written", [])):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        if not settings:
            tiny_params["explore"] |= {"theta_cover": 0.6, "nms_iou": 0.8}
        Path("params.yaml").write_text(yaml.safe_dump(tiny_params))
        stages.pull()
        stages.explore(settings=settings, shards=range(1))
        capsys.readouterr()
        stages.shards("explore", settings=settings)
        assert capsys.readouterr().out == "1\n"
        stages.explore(settings=settings)
        labels = sorted(Project(folder).pseudo_labels.iterdir())
        made[name] = {file.name: file.read_bytes() for file in labels}
    assert made["set"] == made["written"]
    assert len(made["set"]) > 2
    assert yaml.safe_load(made["set"]["manifest.json"])["params"]["theta_cover"] == 0.6


# ---------------------------------------------------------------- in earnest

MEANWHILE = """
import os
exec(os.environ.get("MEANWHILE", ""))
"""
CHANGES = {
    "params": "t = open('params.yaml').read(); open('params.yaml', 'w').write(t.replace('cover: 0.9', 'cover: 0.8'))",
    "code": "open('sohes/backbone/handmade.py', 'a').write('# edited')",
    "input": "os.utime('data/images/manifest.arrow', (1, 1))",
}


@pytest.mark.slow
def test_dvc_records_nothing_of_a_stage_that_something_changed_under(labelling, tiny_params):
    """The stage's module changes things as it is imported: after the stage has begun, before it works."""
    tiny_params["explore"] |= {"features": "handmade", "theta_cover": 0.9}
    (labelling / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    with (labelling / "sohes/stages/explore.py").open("a") as module:
        module.write(MEANWHILE)

    def repro(stage: str, change: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MEANWHILE": change, "SOHES_WORKERS": "1"}
        environment.pop("PYTHONPATH", None)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
        return subprocess.run(command, cwd=labelling, env=environment, capture_output=True, text=True, check=False)

    assert repro("pull").returncode == 0
    for change in CHANGES.values():
        done = repro("explore", change)
        assert done.returncode != 0
        assert "changed while explore ran, which began without the change: nothing is recorded" in done.stderr
        assert "explore:" not in (labelling / "dvc.lock").read_text()
        assert not (labelling / "data/pseudo_labels").exists()
    assert repro("explore").returncode == 0
    manifest = yaml.safe_load((labelling / "data/pseudo_labels/manifest.json").read_text())
    assert manifest["params"]["theta_cover"] == 0.8


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (("pull", {}), ("pull", {}), True),
        (("pull", {}), ("pull", {"shards": range(1)}), False),  # shards are made anywhere, at any time
        (("pull", {}), ("explore", {}), False),
        (("evaluate", {"phase": "explore"}), ("evaluate", {"phase": "correct"}), False),
        (("evaluate", {"phase": "explore"}), ("evaluate", {}), True),
        (("evaluate", {}), ("evaluate", {"phase": "correct"}), True),
    ],
)
def test_a_stage_has_one_process_at_a_time(folder, monkeypatch, first, second, refused):
    ran: list[object] = []

    def begin(stage, options, inside=lambda: None) -> None:
        def run(params, root, **given) -> None:
            ran.append((stage, options))
            inside()

        monkeypatch.setattr(importlib.import_module(f"sohes.stages.{stage}"), "run", run)
        getattr(stages, stage)(**options)

    def beside() -> None:
        if refused:
            with pytest.raises(TemporaryError, match=rf"process {os.getpid()} of .+ already: wait until it ends"):
                begin(*second)
        else:
            begin(*second)

    monkeypatch.setattr(stages, "PATIENCE", 0)
    begin(*first, beside)
    assert ran == ([first] if refused else [first, second])
    begin(*second)


def test_a_source_that_changes_while_it_is_pulled_is_not_published(tmp_path, tiny_params, monkeypatch):
    from PIL import Image

    from sohes.params import Params
    from sohes.stages import pull

    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(4):
        Image.new("RGB", (48, 40), (k, 9, 9)).save(photos / f"{k}.png")
    tiny_params["pull"]["source"] = "folder"
    tiny_params["pull"]["folder"] |= {"images": str(photos), "eval_fraction": 0.25}
    params = Params.model_validate(tiny_params)
    monkeypatch.setenv("SOHES_WORKERS", "1")
    with pytest.raises(TemporaryError, match=r"1 files of pull\.source folder changed while pull ran"):
        pull.run(params, tmp_path, unchanged=lambda: Image.new("RGB", (48, 40)).save(photos / "3.png", optimize=True))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".images.unfinished"]
    pull.run(params, tmp_path)
    assert (tmp_path / "data/images/manifest.arrow").exists()


def test_a_row_that_began_with_other_numbers_than_its_table_is_not_recorded(tmp_path, repository, monkeypatch):
    from flows import ablate

    shutil.copy(repository / "params.yaml", tmp_path)
    shutil.copytree(repository / "params/ablations", tmp_path / "params/ablations")
    shutil.copy(repository / "dvc.yaml", tmp_path)
    (tmp_path / "sohes").mkdir()

    def reproduce(folder: Path, row: str) -> None:
        text = (tmp_path / "params.yaml").read_text()
        (tmp_path / "params.yaml").write_text(text.replace("seed: 0", "seed: 1"))

    monkeypatch.setattr(ablate, "_reproduce", reproduce)
    with pytest.raises(SohesError, match=r"seed in .*params\.yaml changed while ablate ran"):
        next(ablate.run("table-6b", tmp_path / "params.yaml", tmp_path))


@pytest.mark.parametrize(("text", "shards"), [("3", range(3, 4)), ("0-11", range(12)), ("7-7", range(7, 8))])
def test_shards_are_named_as_sohes_shards_prints_them(folder: Path, monkeypatch, text: str, shards: range) -> None:
    asked = []
    monkeypatch.setattr(
        importlib.import_module("sohes.stages.explore"), "run", lambda *_, shards, unchanged: asked.append(shards)
    )
    from typer.testing import CliRunner

    from sohes import cli

    assert CliRunner().invoke(cli.app, ["explore", "--shard", text]).exit_code == 0
    assert asked == [shards]


@pytest.mark.parametrize(
    ("missing", "per_job", "array"),
    [
        (range(11_100), 12, "0-924"),  # Slurm numbers an array's tasks up to 1,000
        ([0, 11, 12, 40, 41], 12, "0-1,3"),
        ([0, 1, 3], 1, "0-1,3"),
        ([], 12, ""),
    ],
)
def test_shards_are_numbered_by_the_job_that_makes_them(folder, monkeypatch, capsys, missing, per_job, array):
    monkeypatch.setattr("sohes.stages.explore.missing_shards", lambda params, root: list(missing))
    stages.shards("explore", per_job=per_job)
    told = capsys.readouterr()
    assert told.out == f"{array}\n"
    assert ("no shard of explore is left" in told.err) == (not missing)


@pytest.mark.parametrize("environment", ["", "own "])
def test_a_job_of_an_array_makes_its_shards(tmp_path, repository, environment):
    """infra/slurm/shards.sh, with a `sohes` that shows what it was asked for, with or without an environment there."""
    if environment:
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/activate").write_text("export IN='own '\n")
    (tmp_path / "sohes").write_text('#!/bin/sh\necho "$IN$@"\n')
    (tmp_path / "sohes").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_TASK_ID": "924"}
    for words, shards in ((["12"], "11088-11099"), ([], "924-924")):
        script = ["bash", str(repository / "infra/slurm/shards.sh"), "explore", *words]
        done = subprocess.run(script, env=variables, capture_output=True, text=True, check=True)
        assert done.stdout == f"{environment}explore --shard {shards}\n"
