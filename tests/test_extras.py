"""Every module is imported with the packages that its own extra brings, and a command says which extra it lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flows
import sohes
from sohes.errors import EXTRAS, SohesError, require_package, sentence_of

# The longest name decides; a name stands for what lies below it too.
NEEDS = {
    "sohes": "",
    "sohes.backbone": "torch",
    "sohes.backbone.handmade": "",
    "sohes.backbone.hub": "",
    "sohes.backbone.label_free": "",
    "sohes.bench.decode": "torch",
    "sohes.bench.loss": "torch",
    "sohes.bench.manifest": "torch",
    "sohes.bench.train": "torch",
    "sohes.downstream": "torch",
    "sohes.downstream.sets": "",
    "sohes.explore.refine.cascadepsp": "cascadepsp",
    "sohes.explore.refine.crm": "torch",
    "sohes.losses": "torch",
    "sohes.model": "torch",
    "sohes.model.decode": "",
    "sohes.model.onnx": "",
    "sohes.model.readme": "",
    "sohes.model.released": "",
    "sohes.model.shared": "",
    "sohes.stages.backbone": "torch",
    "sohes.stages.correct": "torch",
    "sohes.stages.instruct": "torch",
    "sohes.tracking.served_model": "pipeline",
    "sohes.train": "torch",
    "sohes.train.augment": "",
    "sohes.train.progress": "",
    "sohes.train.stopping": "",
    "sohes.train.threshold": "",
    "sohes.train.tiles": "",
    "sohes.work.transfer": "torch",
    "sohes.work.weights": "torch",
    "flows": "pipeline",
}
WITHOUT = {"cascadepsp"}  # not installed by `make`
IMPORT_ALL = """
import importlib, sys
refused, modules = (set(words.split()) for words in sys.argv[1:])

class Without:
    # A finder of modules that does not find what is refused.

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):  # such as that which finds a package's version
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
failed = {}
for name in sorted(modules):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed[name] = error.name
print(failed)
"""


def extra_of(module: str) -> str:
    return NEEDS[max((name for name in NEEDS if f"{module}.".startswith(f"{name}.")), key=len)]


def modules() -> list[str]:
    names = ["sohes", "flows"]
    for package in (sohes, flows):
        for file in Path(package.__file__).parent.rglob("*.py"):
            parts = file.relative_to(Path(package.__file__).parents[1]).with_suffix("").parts
            names.append(".".join(part for part in parts if part != "__init__"))
    return sorted({name for name in names if not name.endswith("__main__")})


@cache
def brought_by(extra: str) -> frozenset[str]:
    """Distributions that `pip install sohes[EXTRA]` installs."""
    found, waiting = set(), [("sohes", extra)]
    while waiting:
        name, wanted = waiting.pop()
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another system or Python
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                pairs = [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
                waiting += [pair for pair in pairs if pair not in found]
                found.update(pairs)
    return frozenset(name for name, _ in found)


def refused_for(extra: str) -> set[str]:
    """What is imported by packages that are here, but that neither the base install nor the extra brings."""
    allowed = brought_by("") | brought_by(extra) | {"sohes"}
    return {
        name
        for name, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & allowed and name not in sys.stdlib_module_names
    }


@pytest.mark.parametrize("extra", sorted(set(NEEDS.values()) - WITHOUT))
def test_modules_are_imported_with_the_packages_of_their_extra_alone(extra, tmp_path):
    mine = [name for name in modules() if extra_of(name) == extra]
    refused = refused_for(extra)
    assert ("torch" in refused) == (extra != "torch")
    assert {"pytest", "mypy"} <= refused
    assert len(mine) >= 3
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(refused), " ".join(mine)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["{}"], done.stderr


def test_the_extras_are_those_of_the_package():
    bringers = packages_distributions()
    for package, extra in EXTRAS.items():
        owners = {canonicalize_name(owner) for owner in bringers[package]}
        assert owners & brought_by(extra), f"sohes[{extra}] does not bring {package}"
        assert not owners & brought_by(""), f"{package} comes with the base install"


def test_a_missing_package_of_an_extra_is_one_sentence(monkeypatch):
    for package, extra in EXTRAS.items():
        monkeypatch.setitem(sys.modules, package, None)  # what Python has of a package that it is not to find
        with pytest.raises(ModuleNotFoundError) as found:
            __import__(package)
        said = f"this needs the package {package}, which is not installed: `pip install 'sohes[{extra}]'`"
        assert sentence_of(found.value) == said
        with pytest.raises(SohesError, match=f"^{re.escape(said)}, or wait$"):
            require_package(package, "wait")
    assert sentence_of(ModuleNotFoundError("a bug of ours", name="sohes.nowhere")) is None
    assert sentence_of(ModuleNotFoundError("another release of torch", name="torch.nowhere")) is None


@pytest.mark.parametrize(
    ("arguments", "package", "words"),
    [
        (
            ("segment", "a.png", "--model", "own.safetensors"),
            "torch",
            "name the released model (--model small) or an ONNX",
        ),
        (("backbone",), "torch", "sohes[torch]"),
        (("instruct",), "torch", "sohes[torch]"),
        (("ablate", "table-2"), "dvc", "sohes[pipeline]"),
        (("bench", "launch"), "prefect", "sohes[pipeline]"),
        (("export-model",), "torch", "sohes[torch]"),
        (("push", "small", "hf://me/cups"), "huggingface_hub", "sohes[torch]"),
        (("segment", "a.png", "--model", "hf://me/cups"), "huggingface_hub", "sohes[torch]"),
    ],
)
def test_a_command_says_which_extra_it_lacks(arguments, package, words, tmp_path, repository):
    (tmp_path / "params.yaml").write_text((repository / "params.yaml").read_text())
    for name in ("a.png", "own.safetensors"):  # which nobody gets as far as to read
        (tmp_path / name).touch()
    # Also for the process that the command may turn into.
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "sohes", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"sohes: this needs the package {package}, which is not installed")
    assert words in said
    assert "Traceback" not in done.stderr


def test_the_doctor_without_extras_says_what_they_would_bring(tmp_path):
    for name in ("torch", "prefect", "dvc", "mlflow"):
        with (tmp_path / "sitecustomize.py").open("a") as file:
            file.write(f"import sys\nsys.modules[{name!r}] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "sohes", "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "SOHES_TRACKING": "on"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert lines["GPU"].startswith("missing ")
    assert "sohes[torch]" in lines["GPU"]
    for name in ("MLflow", "Prefect", "DVC"):
        assert lines[name].startswith("optional ")
        assert "sohes[pipeline]" in lines[name]
    assert done.stdout.splitlines()[-1] == "This machine can run params.yaml, but see GPU."
