"""`sohes init`: a params.yaml for somebody's own photographs."""

from __future__ import annotations

import os
from pathlib import Path

from ruamel.yaml import YAML

from sohes.data.benchmarks import coco
from sohes.errors import SohesError
from sohes.params import TEMPLATE, load_params
from sohes.work.files import atomic_path


def run(images: Path, annotations: Path | None, params: Path) -> list[str]:
    """Set `pull` to the folder, keeping every other number and comment; returns what to tell the user.

    A params file that is not there yet starts as the demo's. Paths are written as seen from the params file's folder.
    """
    if not images.is_dir():
        raise SohesError(f"no such folder of photographs: {images}")
    if not any(file.is_file() for file in images.rglob("*")):
        raise SohesError(f"the folder {images} is empty: name one with photographs in it")
    if annotations is not None and not annotations.is_file():
        raise SohesError(f"no such annotation file: {annotations}")
    if annotations is not None:
        coco.load(annotations)  # a broken one is named now, not after the training
    source = params if params.exists() else TEMPLATE
    load_params(source)  # a broken file is named now, not overwritten
    yaml = YAML()
    yaml.width = 4096  # no line of ours is broken anew
    values = yaml.load(source)
    values["pull"]["source"] = "folder"
    values["pull"]["folder"]["images"] = _as_written(images, params)
    values["pull"]["folder"]["annotations"] = None if annotations is None else _as_written(annotations, params)
    with atomic_path(params) as temporary:
        yaml.dump(values, temporary)
        load_params(temporary)
    scored = "scored against your annotations" if annotations else "predicted but not scored, for want of annotations"
    return [
        f"{params}: pull.source is folder, pull.folder.images is {values['pull']['folder']['images']}",
        f"The held-out images are {scored}.",
        "Next: `dvc repro`. After changing the photographs themselves: `dvc repro --force pull`, then `dvc repro`.",
    ]


def _as_written(path: Path, params: Path) -> str:
    """Relative inside the project, where it moves with it; absolute outside."""
    path, home = path.resolve(), params.parent.resolve()
    return os.path.relpath(path, home) if path.is_relative_to(home) else str(path)
