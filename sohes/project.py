"""Where everything of a project lies. Every path below its folder is spelled here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sohes.errors import SohesError


@dataclass(frozen=True)
class Project:
    """A project's folder and the places in it. Nothing needs to exist."""

    root: Path

    # ---------------------------------------------------------------- what people write

    @property
    def params(self) -> Path:
        """Every number."""
        return self.root / "params.yaml"

    @property
    def graph(self) -> Path:
        """DVC's graph of stages."""
        return self.root / "dvc.yaml"

    @property
    def lock(self) -> Path:
        """What DVC has recorded of each stage."""
        return self.root / "dvc.lock"

    @property
    def ablations(self) -> Path:
        """The folder of ablation tables."""
        return self.root / "params/ablations"

    @property
    def launch_profiles(self) -> Path:
        """The folder of launch profiles."""
        return self.root / "infra/launch"

    # ---------------------------------------------------------------- what the stages write

    @property
    def images(self) -> Path:
        """The store of training images."""
        return self.root / "data/images"

    @property
    def held_out(self) -> Path:
        """The store of held-out images."""
        return self.root / "data/eval"

    @property
    def truth(self) -> Path:
        """Label shards of the held-out images' ground truth; missing where nothing is annotated."""
        return self.held_out / "labels"

    @property
    def pseudo_labels(self) -> Path:
        """Label shards of phase 1."""
        return self.root / "data/pseudo_labels"

    def model(self, name: str) -> Path:
        """The weights of `backbone`, `instruct` or `correct`."""
        return self.root / f"models/{name}.safetensors"

    def card(self, name: str) -> Path:
        """What a model was made of."""
        return self.model(name).with_suffix(".json")

    @property
    def all_predictions(self) -> Path:
        """The folder of every phase's predictions."""
        return self.root / "predictions"

    def predictions(self, phase: str) -> Path:
        """Label shards of a phase's masks on the held-out images."""
        return self.all_predictions / phase

    def metrics(self, name: str) -> Path:
        """A JSON file of figures."""
        return self.root / f"metrics/{name}.json"

    @property
    def reports(self) -> Path:
        """The folder of pages and pictures."""
        return self.root / "reports"

    @property
    def report(self) -> Path:
        """The page that the stage `report` writes."""
        return self.reports / "index.html"

    @property
    def example(self) -> Path:
        """The last phase's masks on one photograph, for a flow to show."""
        return self.reports / "example.jpg"

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

    @property
    def database(self) -> Path:
        """MLflow's, where no server is named."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's copies of files, where no server is named."""
        return self.root / "mlartifacts"


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
