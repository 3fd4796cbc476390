"""The data sets of each task, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sohes.data.benchmarks.places import name_and_folder
from sohes.downstream.sets import ade20k, coco, coco_panoptic
from sohes.downstream.sets.examples import ClassSet
from sohes.errors import SohesError

_OPEN: dict[str, dict[str, Callable[[Path], ClassSet]]] = {
    "semantic": {"ade20k": ade20k.open_set, "coco_panoptic": coco_panoptic.open_set},
    "detection": {"coco": coco.open_set, "coco_panoptic": coco_panoptic.open_set},
}


def open_class_set(task: str, text: str) -> ClassSet:
    """The data set that `NAME=DIR` names. SohesError if the task has no such set, or DIR lacks files of it."""
    name, folder = name_and_folder(text)
    if name not in _OPEN[task]:
        raise SohesError(f"no data set for {task} is called {name}: there are {', '.join(_OPEN[task])}, as NAME=DIR")
    found = _OPEN[task][name](folder)
    if not found.train or not found.val:
        raise SohesError(f"{folder} holds {len(found.train)} training and {len(found.val)} validation images: get both")
    return found
