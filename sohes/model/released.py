"""The segmenter that comes with the code, and what a model's card says to those who use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sohes.errors import SohesError, is_installed
from sohes.model import onnx
from sohes.params import EvaluateParams, InstructParams, load_params
from sohes.params.pull import NO_PHOTOGRAPHS
from sohes.project import Project, read_json

NAME = "small"  # `sohes.load("small")`, `sohes segment --model small`
FOLDER = Path(__file__).parents[1] / "released"
GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # one of them is there if torch can have a GPU


def model_file(model: Path | str) -> Path:
    """The file of the released model if `model` is its name; any other path as it is."""
    return FOLDER / f"{NAME}.safetensors" if str(model) == NAME else Path(model)


def graph_for_cpu(model: Path) -> Path | None:
    """The released model as an ONNX file with the same weights: a CPU is done before torch would be imported.

    None for any other model, and where torch is installed and seems to have a GPU.
    """
    if model != model_file(NAME) or (is_installed("torch") and has_gpu()):
        return None
    graph = model.with_suffix(onnx.SUFFIX)
    return graph if graph.exists() else None


def has_gpu() -> bool:
    """Whether there seems to be a GPU, found out without torch."""
    return any(Path(device).exists() for device in GPUS)


def start_of(params: InstructParams, root: Path) -> Path | None:
    """The file of the model that phase 2 begins with, if it begins with one. root: of the project."""
    return None if params.start is None else root / model_file(params.start)


def vit_of_start(params: InstructParams, root: Path) -> Path | None:
    """The file of the model whose ViT phase 2 trains; None: it trains the pipeline's backbone.

    root: of the project. SohesError if there is no such file.
    """
    start = start_of(params, root) if params.backbone_of_start else None
    if start is not None and not start.is_file():
        raise SohesError(f"no model at {start}, whose ViT phase 2 trains: set instruct.start to where it lies")
    return start


def read_card(model: Path) -> dict[str, Any]:
    """The card beside a model's file, or in an ONNX file; empty if there is none that can be read, for loading says so.

    SohesError for an ONNX file that cannot be read.
    """
    if model.suffix == onnx.SUFFIX:
        return onnx.card_of(model)
    try:
        return read_json(model.with_suffix(".json"), "")
    except (OSError, ValueError, SohesError):  # ValueError: a folder such as `.` has no name
        return {}


def is_for_photographs(model: Path) -> bool:
    """False if the card says that the model is no good on real photographs, as one of drawn scenes does."""
    return NO_PHOTOGRAPHS not in str(read_card(model).get("limits"))


def evaluate_of(model: Path) -> EvaluateParams | None:
    """The `evaluate` numbers that the model is meant for: those of its project's params.yaml, else its card's.

    Only a model of the pipeline that lies in its place has a project. None if its card names none, either. SohesError
    if they do not fit this program.
    """
    file = Path(model).absolute()
    project = Project(file.parent.parent)
    if file in (project.model("instruct"), project.model("correct")) and project.params.is_file():
        return load_params(project.params).evaluate  # as it is now: they may be chosen after the training
    section = read_card(model).get("evaluate")
    try:
        return None if section is None else EvaluateParams.model_validate(section)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SohesError(
            f"the card of {model} does not fit this program at evaluate.{key}: name a params file (--params) instead"
        ) from None
