"""Models by name, wherever they lie."""

from __future__ import annotations

from pathlib import Path

from sohes.model.released import model_file
from sohes.tracking.registry import registered_model


def named_model(name: Path | str, root: Path) -> Path:
    """The file of a model: `small`, a file's path, `mlflow:/...` of the project in `root`, `hf://...`, `https://...`.

    What lies elsewhere is fetched. A path is given back as it is, whether anything is there or not. SohesError for a
    model that cannot be had.
    """
    text = str(name)
    if text.startswith("mlflow:"):
        return registered_model(text, root)
    if "://" in text:
        from sohes.model.shared import fetch_shared, is_shared  # brings what speaks HTTP

        if is_shared(text):
            return fetch_shared(text)
    return model_file(name)
