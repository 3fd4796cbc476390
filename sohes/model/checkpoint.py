"""A trained segmenter on disk: safetensors weights and a JSON card beside them, enough to build it again offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sohes.backbone.checkpoint import load_backbone
from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.model.build import Network, build_network
from sohes.model.queries import GridQueries
from sohes.params import ModelParams
from sohes.work.weights import load_weights, read_card, save_weights

GRID_EMBEDDING = "mask_decoder.queries.embedding"


def save_checkpoint(path: Path, model: Network, card: Mapping[str, Any]) -> None:
    """Write the weights, and beside them `<name>.json`: `card`, and the architecture."""
    facts = {
        "backbone": {"architecture": model.backbone.architecture, "arguments": model.backbone.arguments},
        "model": model.params.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    save_weights(Path(path), model, {**card, **facts})


def load_checkpoint(path: Path) -> tuple[Network, dict[str, Any]]:
    """A segmenter that `save_checkpoint` wrote, on the CPU, and its card.

    SohesError if a file is missing, damaged, of another version, or not what the card says.
    """
    path = Path(path)
    card, again = _card_of(path)
    try:
        model = build_network(_untrained(card), ModelParams.model_validate(card["model"]))
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise SohesError(f"{path.with_suffix('.json')} does not fit this program at model.{key}: {again}") from None
    load_weights(path, model, again)
    return model, card


def first_vit(of_start: Path | None, backbone: Path) -> Backbone:
    """The ViT that phase 2 begins with: that of a segmenter (`vit_of_start`), or the pipeline's."""
    return load_backbone(backbone) if of_start is None else load_checkpoint(of_start)[0].backbone


def untrained_vit(path: Path) -> Backbone:
    """A ViT like that of the segmenter in `path`, with random weights. SohesError as from `load_checkpoint`."""
    return _untrained(_card_of(Path(path))[0])


def _card_of(path: Path) -> tuple[dict[str, Any], str]:
    """The card of a segmenter whose weights are what it says, and what to do if they turn out not to be."""
    # A model of the pipeline has its stage's name; one from elsewhere can only be copied again.
    stage = path.stem if path.stem in ("instruct", "correct") else None
    again = f"run `sohes {stage}` again" if stage else "copy the weights and the .json beside them once more"
    if path.suffix != ".safetensors":  # before the card is looked for: a photograph may have a .json of its own
        raise SohesError(f"{path} is not a .safetensors model: name one, with its card, a .json, beside it")
    if not path.is_file():
        first = (
            f"run `sohes {stage}` first" if stage else "name a .safetensors file that has its card, a .json, beside it"
        )
        raise SohesError(f"no model at {path}: {first}")
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        raise SohesError(f"the card {card_path} beside {path.name} is missing: {again}")
    card = read_card(path, again, needs=["backbone", "model"])
    vit = card["backbone"]
    if not isinstance(vit, dict) or "architecture" not in vit or not isinstance(vit.get("arguments"), dict):
        raise SohesError(f"{card_path} is damaged (its backbone lacks architecture or arguments): {again}")
    return card, again


def _untrained(card: Mapping[str, Any]) -> Backbone:
    return Backbone(card["backbone"]["architecture"], card["backbone"]["arguments"])


def begin_from(network: Network, path: Path) -> float:
    """Take over the weights of a trained model that have the same name and shape; their share of the network's.

    Embeddings of grid queries are fitted to the network's grids. SohesError if no weight fits, or if the model cannot
    be loaded.
    """
    trained, _ = load_checkpoint(path)
    own, weights = network.state_dict(), trained.state_dict()
    if GRID_EMBEDDING in weights and GRID_EMBEDDING in own:
        weights[GRID_EMBEDDING] = GridQueries.for_grids(weights[GRID_EMBEDDING], network.params.num_queries)
    fitting = {name: w for name, w in weights.items() if name in own and own[name].shape == w.shape}
    if not fitting:
        raise SohesError(f"no weight of {path} fits the network of `model` and `backbone`: set instruct.start to null")
    network.load_state_dict(fitting, strict=False)
    return sum(w.numel() for w in fitting.values()) / sum(w.numel() for w in own.values())
