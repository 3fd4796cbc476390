"""`sohes push`: a trained model to the Hugging Face hub, for `sohes.load("hf://...")` anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sohes.errors import SohesError, require_package
from sohes.evaluate.figures import read_rows
from sohes.explore import label_free
from sohes.model import onnx
from sohes.model.readme import readme
from sohes.model.released import model_file, read_card
from sohes.model.shared import FILE, HUB, hub_errors, hub_name
from sohes.project import Project, read_json
from sohes.tracking.named import named_model


def push(
    model: Annotated[str, typer.Argument(help="A model's file, small, or mlflow:/NAME@ALIAS.")],
    to: Annotated[str, typer.Argument(help="hf://ORG/MODEL; it is made if there is none.")],
    data: Annotated[
        str | None, typer.Option(help="In words, what it was trained on.", show_default="the card's")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Such as apache-2.0 or other.", show_default="the card's, or unknown")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="For those whom you let in only.")] = False,
) -> None:
    """Share a model on the Hugging Face hub.

    Weights, card, and a README out of it. `hf auth login` comes first.

    Example: sohes push models/correct.safetensors hf://me/cups --data "900 cups"
    """
    repository, name, revision = hub_name(to)
    if revision or to.removeprefix(HUB) != repository:
        raise SohesError(f"a model is pushed to hf://ORG/MODEL (got {to}): leave out the rest")
    require_package("huggingface_hub")
    file = named_model(model, Path.cwd())
    _check(file)
    card = shared_card(file)
    card |= {key: value for key, value in (("data", data), ("licence", licence)) if value}
    name = f"model{onnx.SUFFIX}" if file.suffix == onnx.SUFFIX else FILE
    address = to if name == FILE else f"{to}/{name}"
    files: dict[str, Path | bytes] = {
        name: file,
        "model.json": (json.dumps(card, indent=2, sort_keys=True) + "\n").encode(),
        "README.md": readme(card, address, repository.partition("/")[2]).encode(),
    }
    with hub_errors(f"cannot push to {to}"):
        from huggingface_hub import CommitOperationAdd, HfApi

        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise SohesError(f"{to} is there already, and public: make it private on the hub, or name another")
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(place, content) for place, content in files.items()],
            commit_message=f"A model trained with SOHES: {name}, its card and README",
        )
    print(f'pushed to {commit.commit_url}: sohes.load("{address}")')


def _check(file: Path) -> None:
    """SohesError for a model that nobody could load."""
    if file.suffix == onnx.SUFFIX:
        onnx.load_onnx(file)
        return
    from sohes.model.checkpoint import load_checkpoint  # it imports torch

    load_checkpoint(file)


def shared_card(file: Path) -> dict[str, Any]:
    """The model's card, and what the project that it lies in knows of it: whether it is label-free, and its recall."""
    card = read_card(file)
    project, phase = Project(file.resolve().parent.parent), str(card.get("phase"))
    if project.model(phase) != file.resolve():
        return card
    manifest = project.pseudo_labels / "manifest.json"
    if "label_free" not in card and manifest.is_file():
        labels = read_json(manifest, "run `sohes explore` again", needs=["label_free"])["label_free"]
        params = read_card(project.model("instruct")).get("params") or {}
        start = (params.get("instruct") or {}).get("start")
        begun_with = start and project.root / model_file(start)
        card["label_free"] = label_free.of_model(labels, project.model("backbone"), begun_with)
    scores = project.metrics("evaluate")
    if "figures" not in card and scores.is_file() and scores.stat().st_mtime >= file.stat().st_mtime:
        row = read_rows(project).get(phase, {})
        if row.get("AR") is not None:  # older scores are another model's
            card["figures"] = {"held-out images": {key: row.get(key) for key in _FIGURES}}
    return card


_FIGURES = ("AR", "AR_S", "AR_M", "AR_L", "images", "masks_per_image")
