"""A ViT on disk, with everything needed to build it again offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.work.weights import load_weights, read_card, save_weights


def save_backbone(backbone: Backbone, path: Path, card: Mapping[str, Any]) -> None:
    """Write the weights and, beside them, a JSON card: `card`, and how to build the model again."""
    facts = {
        "architecture": backbone.architecture,
        "arguments": backbone.arguments,
        "patch_size": backbone.patch_size,
        "embed_dim": backbone.embed_dim,
        "depth": backbone.depth,
        "parameters": sum(p.numel() for p in backbone.parameters()),
    }
    save_weights(Path(path), backbone.vit, {**card, **facts})


def load_backbone(path: Path, again: str = "run `sohes backbone` again") -> Backbone:
    """A backbone that `save_backbone` wrote.

    SohesError if it is missing, or with the remedy `again` if it is damaged or not what its card says.
    """
    path = Path(path)
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.exists():
            raise SohesError(f"no backbone at {needed}: run `sohes backbone` first")
    card = read_card(path, again, needs=["architecture", "arguments"])
    if not isinstance(arguments := card["arguments"], dict):
        raise SohesError(f"{card_path} is damaged (its arguments are {arguments}): {again}")
    backbone = Backbone(card["architecture"], arguments)
    load_weights(path, backbone.vit, again)
    return backbone
