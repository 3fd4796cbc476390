"""Where everything of a project lies. Every path below its folder is spelled here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sohes.errors import SohesError


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
    ablations = _Place("params/ablations")  # the folder of ablation tables
    launch_profiles = _Place("infra/launch")  # the folder of launch profiles

    # ---------------------------------------------------------------- what the stages write

    images = _Place("data/images")  # the store of training images
    held_out = _Place("data/eval")  # the store of held-out images
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
    example = _Place("reports/example.jpg")  # the last phase's masks on one photograph, for a flow to show

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
        """Itself; for the copy that `dvc exp run --temp` or `--queue` works in and removes, the project it is of."""
        here = self.root.resolve()
        for experiments in here.parents:
            if experiments.parts[-3:] == (".dvc", "tmp", "exps"):
                home, inside = experiments.parents[2], here.relative_to(experiments).parts
                below = Path(*inside[2 if inside[0] == "standalone" else 1 :])  # what lies above is the copy's own name
                of = (
                    base / below for base in (home, *home.parents)
                )  # DVC may be at home in a folder of the repository
                return next((Project(root) for root in of if Project(root).graph.exists()), self)
        return self


def require(path: Path, what: str, command: str) -> Path:
    """The path. SohesError if nothing is there: `what` it should hold and the `sohes` command that makes it."""
    if not path.exists():
        raise SohesError(f"no {what} at {path}: run `sohes {command}` first")
    return path


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. SohesError if it is not UTF-8, not YAML, empty or not a mapping."""
    import yaml  # `sohes --help` does without it

    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise SohesError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8, or name another") from None
    except yaml.YAMLError as error:
        raise SohesError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__} and not a mapping of keys to values"
        raise SohesError(f"{path} is {found}: fix it, or copy one that comes with the code")
    return raw
