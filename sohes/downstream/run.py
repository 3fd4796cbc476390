"""A fresh adapter and a plain head trained on the backbone before and after SOHES's training (paper 4.4, figure 6).

The ViT stays frozen and both backbones are treated alike: a linear classifier for semantic segmentation, RetinaNet for
detection. A figure is kept, and computed again only when something that it depends on has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sohes.backbone.checkpoint import load_backbone
from sohes.backbone.vit import Backbone
from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.scores import score_detection, score_semantic
from sohes.downstream.sets import scenes
from sohes.downstream.sets.catalogue import open_class_set
from sohes.downstream.sets.examples import ClassSet
from sohes.downstream.training import ExampleDataset, Probing
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint
from sohes.model.released import vit_of_start
from sohes.params import Params
from sohes.project import Project, read_json, require
from sohes.train.loading import stage_seed
from sohes.train.loop import Recorder, train
from sohes.train.state import ResumableState
from sohes.train.world import World
from sohes.work.files import digest_file, write_json
from sohes.work.identity import code_digest, identity

BACKBONES = {"before": "backbone", "after": "correct"}  # the model whose file holds the ViT
FIGURES = {"semantic": "mean IoU", "detection": "AP of boxes"}
SCENES = "scenes"


@dataclass(frozen=True)
class Task:
    """name: a key of FIGURES. text: how the data set was named, `NAME=DIR` or SCENES."""

    name: str
    text: str
    data: ClassSet


@dataclass(frozen=True)
class Outcome:
    """A task's figure in percent with the backbone before and after SOHES's training."""

    task: str
    data: str
    classes: int
    train_images: int
    images: int
    before: float
    after: float


@dataclass(frozen=True)
class _Prefixed:
    """One recorder for the losses of four trainings."""

    recorder: Recorder
    prefix: str

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.recorder.metrics({f"{self.prefix}/{name}": value for name, value in values.items()}, step)


def open_tasks(params: Params, *, semantic: str | None = None, detection: str | None = None) -> list[Task]:
    """The tasks on the data sets that `NAME=DIR` names; both on the embedded scenes if none is named.

    SohesError if a data set is missing or cannot be scored.
    """
    chosen = {name: text for name, text in (("semantic", semantic), ("detection", detection)) if text}
    tasks = []
    for name, text in (chosen or dict.fromkeys(FIGURES, SCENES)).items():
        data = scenes.open_set(params.pull.scenes, seed=params.seed) if text == SCENES else open_class_set(name, text)
        if name == "detection" and not any(len(data.read(key).boxes_T4) for key in data.val):
            raise SohesError(f"no validation image of {text} has a box, so detection cannot be scored on it")
        tasks.append(Task(name, text, data))
    return tasks


def find_backbones(params: Params, root: Path) -> dict[str, Path]:
    """The files that hold the ViT `before` and `after`. SohesError if one is missing."""
    found = {which: require(Project(root).model(name), "model", name) for which, name in BACKBONES.items()}
    return found | {"before": vit_of_start(params.instruct, root) or found["before"]}


def measure(
    tasks: Iterable[Task],
    backbones: Mapping[str, Path],
    params: Params,
    *,
    root: Path,
    world: World,
    recorder: Recorder,
) -> list[Outcome]:
    """Train and score every task on both backbones, or take what `.sohes/downstream` has kept."""
    outcomes = []
    for task in tasks:
        before, after = (_figure(task, which, path, params, root, world, recorder) for which, path in backbones.items())
        recorder.metrics({f"{task.name}/before": before, f"{task.name}/after": after})
        sizes = (len(task.data.classes), len(task.data.train), len(task.data.val))
        outcomes.append(Outcome(task.name, task.text.partition("=")[0], *sizes, before, after))
    return outcomes


def _figure(task: Task, which: str, path: Path, params: Params, root: Path, world: World, recorder: Recorder) -> float:
    """In percent: the figure that was kept, or that of a probe trained now."""
    section, folder, name = params.downstream, Project(root).state("downstream"), f"{task.name}-{which}"
    depends = _depends_on(task, path, params)
    result = folder / f"{name}-{depends}.json"
    if (kept := world.of_first(partial(_kept, result))) is not None:  # else some would train and others not
        return kept
    bare = path == Project(root).model("backbone")
    backbone = load_backbone(path) if bare else load_checkpoint(path)[0].backbone
    torch.manual_seed(params.seed)  # both backbones get the same adapter and head
    network = _probe(task, backbone, params)
    dataset = ExampleDataset(
        task.data,
        image_size=section.image_size,
        batch_size=section.batch_size,
        normalisation=(backbone.mean, backbone.std),
        seed=stage_seed(params.seed, "downstream"),
    )
    state = ResumableState(folder / name, depends, may_write=world.is_first)
    state.begin(None)
    learner, prefixed = Probing(network, averaged=False), _Prefixed(recorder, name)
    train(learner, dataset, section, title="downstream", seed=params.seed, world=world, state=state, recorder=prefixed)
    # Every process scores all images: waiting for the first one could outlast the process group's timeout.
    sizes = {"image_size": section.image_size, "batch_size": section.batch_size // section.accumulate}
    if isinstance(network, SemanticProbe):
        figure = score_semantic(network, task.data, **sizes)
    else:
        figure = score_detection(network, task.data, **sizes)
    if world.is_first:
        write_json(result, {"figure": figure})
        state.remove()
    world.wait()
    return figure


def _kept(result: Path) -> float | None:
    if not result.exists():
        return None
    return read_json(result, "remove it and run the same command again", needs=["figure"])["figure"]


def _probe(task: Task, backbone: Backbone, params: Params) -> SemanticProbe | DetectionProbe:
    section, adapter, classes = params.downstream, params.model.adapter, len(task.data.classes)
    if task.name == "semantic":
        return SemanticProbe(backbone, adapter, classes=classes)
    return DetectionProbe(backbone, adapter, classes=classes, dim=section.detection_dim, image_size=section.image_size)


def _depends_on(task: Task, path: Path, params: Params) -> str:
    """The identity of everything that a figure depends on."""
    return identity(
        {
            "task": task.name,
            "data": params.pull.scenes.model_dump(mode="json") if task.text == SCENES else task.text,
            "examples": _digest(task.data),
            "seed": params.seed,
            "params": params.downstream.model_dump(mode="json"),
            "adapter": params.model.adapter.model_dump(mode="json"),
            "model": digest_file(path),
            "code": code_digest("sohes.downstream.run"),
        }
    )


def _digest(data: ClassSet) -> str:
    """Of the classes and of each example's key, which for boxes holds the annotations.

    A photograph or a map of classes that was replaced under the same name is not noticed: reading them all would take
    as long as a part of the training.
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for split in (data.train, data.val):
        digest.update(f"{len(split)}".encode())
        for key in split:
            digest.update(repr(key).encode())
    return digest.hexdigest()
