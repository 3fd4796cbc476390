"""Where everything of a project lies. Every path below its folder is spelled here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sohes.errors import SohesError

Value = TypeVar("Value", dict[str, Any], list[Any])

MANIFEST = "manifest.arrow"  # in a store of images


class _Place:
    """An attribute of a project: a path below its folder."""

    def __init__(self, below: str) -> None:
        self.below = below

    def __get__(self, project: Project, owner: type[Project]) -> Path:
        return project.root / self.below


@dataclass(frozen=True)
class Project:
    """A project's folder and the places in it. Nothing needs to exist."""

    root: Path

    # ---------------------------------------------------------------- what people write

    params = _Place("params.yaml")  # every number
    graph = _Place("dvc.yaml")  # DVC's graph of stages
    lock = _Place("dvc.lock")  # what DVC has recorded of each stage
    readme = _Place("README.md")
    git_ignores = _Place(".gitignore")
    dvc_ignores = _Place(".dvcignore")
    dvc = _Place(".dvc")  # the folder of DVC's settings
    profiles = _Place("params")  # the folder of further files of params
    schema = _Place("params/schema.json")  # what editors know of files of params
    packs = _Place("params/sa1b-2-percent.txt")  # the packs of SA-1B that params/paper.yaml takes
    ablations = _Place("params/ablations")  # the folder of ablation tables
    launch_profiles = _Place("infra/launch")  # the folder of launch profiles
    slurm_scripts = _Place("infra/slurm")  # the folder of scripts for sbatch
    deployments = _Place("prefect.yaml")  # Prefect's deployments of the flows
    automations = _Place("infra/prefect/automations.yaml")  # what Prefect's server does by itself
    pod_template = _Place("infra/kubernetes/work-pool.json")  # Prefect's, for the pods that run flows

    # ---------------------------------------------------------------- what the stages write

    images = _Place("data/images")  # the store of training images
    images_manifest = _Place(f"data/images/{MANIFEST}")
    held_out = _Place("data/eval")  # the store of held-out images
    held_out_manifest = _Place(f"data/eval/{MANIFEST}")
    truth = _Place("data/eval/labels")  # their ground truth as label shards; missing where nothing is annotated
    pseudo_labels = _Place("data/pseudo_labels")  # label shards of phase 1

    def model(self, name: str) -> Path:
        """The weights of `backbone`, `instruct` or `correct`."""
        return self.root / f"models/{name}.safetensors"

    def card(self, name: str) -> Path:
        """What a model was made of."""
        return self.model(name).with_suffix(".json")

    all_predictions = _Place("predictions")  # the folder of every phase's predictions

    def predictions(self, phase: str) -> Path:
        """Label shards of a phase's masks on the held-out images."""
        return self.all_predictions / phase

    def metrics(self, name: str) -> Path:
        """A JSON file of figures."""
        return self.root / f"metrics/{name}.json"

    reports = _Place("reports")  # the folder of pages and pictures
    report = _Place("reports/index.html")  # the page that the stage `report` writes

    def mosaic(self, kind: str) -> Path:
        """Pictures of a few held-out images for a flow to show: of `matched` masks or of the `strongest`."""
        return self.root / f"reports/{kind}.jpg"

    def code(self, stage: str) -> Path:
        """A digest of a stage's code, for DVC to watch in a project that does not hold the code (`sohes code`)."""
        return self.root / f"metrics/code/{stage}.json"

    def curves(self, stage: str) -> Path:
        """A stage's figures step by step, where MLflow is not installed."""
        return self.root / f"metrics/curves/{stage}.jsonl"

    def cost(self, stage: str) -> Path:
        """What a stage has taken: time and memory."""
        return self.root / f"metrics/cost/{stage}.json"

    # ---------------------------------------------------------------- what comes and goes

    def state(self, name: str) -> Path:
        """Where unfinished work of a stage or tool waits to be continued."""
        return self.root / ".sohes" / name

    database = _Place("mlflow.db")  # MLflow's, where no server is named
    artifacts = _Place("mlartifacts")  # MLflow's copies of files, where no server is named

    @property
    def lasting(self) -> Project:
        """Itself, or the project that this is a temporary copy of (`dvc exp run --temp`, `--queue`)."""
        here = self.root.resolve()
        for experiments in here.parents:
            if experiments.parts[-3:] == (".dvc", "tmp", "exps"):
                home, inside = experiments.parents[2], here.relative_to(experiments).parts
                below = Path(*inside[2 if inside[0] == "standalone" else 1 :])  # what lies above is the copy's own name
                # DVC may be at home in a folder of the repository.
                projects = (Project(base / below) for base in (home, *home.parents))
                return next((project for project in projects if project.graph.exists()), self)
        return self


def _with_the_code() -> Path:
    packed = Path(__file__).parent / "template"  # in a wheel, by setup.py
    return packed if packed.is_dir() else Path(__file__).parents[1]


TEMPLATE = Project(_with_the_code())  # what people write, as it comes with the code: installed or as a checkout


def require(path: Path, what: str, command: str) -> Path:
    """The path. SohesError if nothing is there: `what` it should hold and the `sohes` command that makes it."""
    if not path.exists():
        raise SohesError(f"no {what} at {path}: run `sohes {command}` first")
    return path


def dvc_settings(root: Path) -> ConfigParser:
    """The project's own settings of DVC; those of the user and the system are not read."""
    found = ConfigParser(interpolation=None)
    found.read([Project(root).dvc / name for name in ("config", "config.local")], "utf-8")
    return found


def require_git(root: Path) -> None:
    """SohesError where DVC misses the Git repository that it wants around a project, as in an unpacked archive."""
    if dvc_settings(root).getboolean("core", "no_scm", fallback=False):
        return
    if not any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        raise SohesError(
            f"{root} is in no Git repository, and DVC refuses to work: `git init`, or `dvc config core.no_scm true`"
        )


def read_text(path: Path) -> str:
    """The text of a file that somebody wrote, without the mark that some editors put first. SohesError unless UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SohesError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8, or name another") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, by the rules of YAML 1.2, which DVC reads by too: `012` is 12, `on` is a word.

    SohesError if it is not UTF-8, not YAML, empty, not a mapping, or if a key stands in it twice.
    """
    raw = parse_yaml(read_text(path), str(path))
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__} and not a mapping of keys to values"
        raise SohesError(f"{path} is {found}: fix it, or copy one that comes with the code")
    return raw


def parse_yaml(text: str, where: str) -> Any:
    """What a text of YAML 1.2 says. SohesError, which begins with `where`, if it is not YAML or has a key twice."""
    from ruamel.yaml import YAML, YAMLError  # `sohes --help` does without it
    from ruamel.yaml.constructor import DuplicateKeyError

    try:
        return YAML(typ="safe").load(text)
    except DuplicateKeyError as error:
        fault, line = str(error.problem).partition(" with value")[0], error.problem_mark.line + 1
        raise SohesError(f"{where}: {fault.removeprefix('found ')} in line {line}: remove one of the two") from None
    except (YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, such as 2026-13-01
        raise SohesError(f"{where} is not valid YAML: {_line(error)}") from None


def read_json(path: Path, remedy: str, kind: type[Value] = dict, *, needs: Iterable[str] = ()) -> Value:  # type: ignore[assignment]
    """What a JSON file of our own holds. The one reader for what a stage or tool has written for another to read.

    needs: keys that its object must have. SohesError with the file, its fault and the remedy (such as "run `sohes
    pull` again") if it is not JSON, of another kind, or lacks a key.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fault = f"not valid JSON: {_line(error)}" if path.stat().st_size else "the file is empty"
        raise SohesError(f"{path} is damaged ({fault}): {remedy}") from None
    if not isinstance(value, kind):
        raise SohesError(f"{path} is damaged (it is no {'list' if kind is list else 'object'}): {remedy}")
    if lacking := [key for key in needs if key not in value]:
        raise SohesError(f"{path} is damaged (it lacks {', '.join(lacking)}): {remedy}")
    return value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
