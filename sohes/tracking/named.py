"""Models by name, wherever they lie."""

from __future__ import annotations

from pathlib import Path

from sohes.model.released import model_file
from sohes.model.shared import fetch_shared, is_shared
from sohes.tracking.registry import registered_model


def named_model(name: Path | str, root: Path) -> Path:
    """The file of a model: `small`, a file's path, `mlflow:/...` of the project in `root`, `hf://...`, `https://...`.

    What lies elsewhere is fetched. A path is given back as it is, whether anything is there or not. SohesError for a
    model that cannot be had.
    """
    text = str(name)
    if text.startswith("mlflow:"):
        return registered_model(text, root)
    return fetch_shared(text) if is_shared(text) else model_file(name)
