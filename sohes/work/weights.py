"""Weights on disk: a .safetensors file, and beside it a JSON card that says how to build their network again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import nn

from sohes.errors import SohesError, is_the_machines
from sohes.project import read_json
from sohes.work.files import digest_file, write_file, write_json

CARD_VERSION = 1


def save_weights(path: Path, network: nn.Module, card: Mapping[str, Any]) -> None:
    """Write the network's weights, then `<name>.json`: `card`, its version, and the digest of the weights.

    Each file is whole or absent; a pair that does not match is refused on loading. The same weights are the same bytes.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_file(path, serialise(weights))  # save_file would make it readable by its owner only
    write_json(path.with_suffix(".json"), {**card, "version": CARD_VERSION, "digest": digest_file(path)})


def read_card(path: Path, again: str, *, needs: Iterable[str]) -> dict[str, Any]:
    """The card beside the weights in `path`, which are the ones it was written for.

    needs: keys that it must have. SohesError with the remedy `again` if it is damaged, of another version, or of other
    weights.
    """
    card_path = path.with_suffix(".json")
    card = read_json(card_path, again, needs=["version", "digest", *needs])
    if (version := card["version"]) != CARD_VERSION:
        raise SohesError(f"{card_path} is of version {version}, this program reads {CARD_VERSION}: {again}")
    if card["digest"] != digest_file(path):
        raise SohesError(f"{path} is not the file that its card describes: {again}")
    return card


def load_weights(path: Path, network: nn.Module, again: str) -> None:
    """Fill a network built by the card. SohesError with the remedy `again` if a name or a shape differs."""
    try:
        network.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        if is_the_machines(error):
            raise
        lines = [line.strip() for line in str(error).splitlines()]  # torch names the weight in the second
        raise SohesError(f"{path} does not fit its card ({lines[min(1, len(lines) - 1)]}): {again}") from None
