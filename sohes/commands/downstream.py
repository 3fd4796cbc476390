"""`sohes downstream`: the backbone before and after SOHES's training in two supervised tasks (paper 4.4, figure 6).

The ViT stays frozen. A fresh adapter and a plain head are trained on each of both backbones alike: a linear classifier
for semantic segmentation, RetinaNet for detection. A result is kept in `.sohes/downstream/` and not computed again
while all that it depends on is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from sohes import tracking
from sohes.backbone.vit import Backbone, load_backbone
from sohes.commands.options import HERE, ParamsFile
from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.scores import score_detection, score_semantic
from sohes.downstream.sets import scenes
from sohes.downstream.sets.catalogue import open_class_set
from sohes.downstream.sets.examples import ClassSet, ExampleDataset
from sohes.downstream.training import train_probe
from sohes.errors import SohesError
from sohes.evaluate.published import PAPER_DOWNSTREAM, SOHES_PAPER
from sohes.evaluate.tables import markdown
from sohes.model.checkpoint import load_checkpoint
from sohes.params import Params, load_params
from sohes.stages.training import require
from sohes.train.state import ResumableState, fingerprint
from sohes.train.world import World, join_world
from sohes.work.files import digest_file, write_json

BACKBONES = {"before": "backbone", "after": "correct"}  # whose file in models/ holds the ViT
FIGURES = {"semantic": "mean IoU", "detection": "AP of boxes"}
SCENES = "scenes"


def downstream(
    semantic: Annotated[str | None, typer.Option(help="NAME=DIR: ade20k or coco_panoptic.")] = None,
    detection: Annotated[str | None, typer.Option(help="NAME=DIR: coco or coco_panoptic.")] = None,
    params: ParamsFile = HERE.params,
) -> None:
    """Measure the backbone on supervised tasks.

    Before and after training: mean IoU and AP on the frozen ViT.

    Example: sohes downstream --semantic ade20k=~/ADEChallengeData2016 --detection coco=~/coco

    Without data: both tasks on the embedded scenes. After a kill, the same command resumes. Writes
    metrics/downstream.json.
    """
    print(run(load_params(params), Path.cwd(), semantic=semantic, detection=detection))


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
class _Trial:
    """One task on one backbone. text: the data set as it was named; path: the file that holds the ViT."""

    task: str
    which: str
    text: str
    data: ClassSet
    path: Path


@dataclass(frozen=True)
class _Prefixed:
    """Losses of four trainings in one record: each under its own name."""

    recorder: tracking.Recorder
    prefix: str

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.recorder.metrics({f"{self.prefix}/{name}": value for name, value in values.items()}, step)


def run(params: Params, root: Path, *, semantic: str | None = None, detection: str | None = None) -> str:
    """Train and score what is missing; writes `metrics/downstream.json` and returns the table as Markdown.

    semantic, detection: `NAME=DIR`; a task without one is left out, and without any both are done on the embedded
    scenes. SohesError if a data set or a model is missing.
    """
    chosen = {"semantic": semantic, "detection": detection}
    wanted = {task: text for task, text in chosen.items() if text} or dict.fromkeys(FIGURES, SCENES)
    paths = {which: require(root / f"models/{name}.safetensors", "model", name) for which, name in BACKBONES.items()}
    sets = {task: _open(task, text, params) for task, text in wanted.items()}
    outcomes = []
    with join_world() as world, tracking.stage_run("downstream", params, root) as recorder:
        for task, data in sets.items():
            trials = [_Trial(task, which, wanted[task], data, path) for which, path in paths.items()]
            before, after = (_figure(trial, params, root, world, recorder) for trial in trials)
            name = wanted[task].partition("=")[0]
            sizes = (len(data.classes), len(data.train), len(data.val))
            outcomes.append(Outcome(task, name, *sizes, before, after))
            recorder.metrics({f"{task}/before": before, f"{task}/after": after})
        if world.is_first:
            write_json(root / "metrics/downstream.json", [asdict(outcome) for outcome in outcomes])
            recorder.artifact(root / "metrics/downstream.json")
    return table(outcomes)


def _open(task: str, text: str, params: Params) -> ClassSet:
    data = scenes.open_set(params.pull.scenes, seed=params.seed) if text == SCENES else open_class_set(task, text)
    if task == "detection" and not any(len(data.read(key).boxes_T4) for key in data.val):
        raise SohesError(f"no validation image of {text} has a box, so detection cannot be scored on it")
    return data


def _figure(trial: _Trial, params: Params, root: Path, world: World, recorder: tracking.Recorder) -> float:
    """In percent: what is kept from before, or of a probe that is trained now."""
    section, data, name = params.downstream, trial.data, f"{trial.task}-{trial.which}"
    depends = _depends_on(trial, params)
    result = root / f".sohes/downstream/{name}-{depends}.json"
    if result.exists():
        return json.loads(result.read_text())["figure"]
    backbone = load_backbone(trial.path) if trial.which == "before" else load_checkpoint(trial.path)[0].backbone
    torch.manual_seed(params.seed)  # from here on both backbones draw the same: the adapter, the head
    network = _probe(trial.task, backbone, params, len(data.classes))
    dataset = ExampleDataset(
        data,
        image_size=section.image_size,
        batch_size=section.batch_size,
        normalisation=(backbone.mean, backbone.std),
        seed=params.seed,
    )
    state = ResumableState(root / f".sohes/downstream/{name}", depends, may_write=world.is_first)
    state.begin(recorder.run_id)
    train_probe(
        network,
        dataset,
        section,
        seed=params.seed,
        world=world,
        state=state,
        recorder=_Prefixed(recorder, name),
    )
    # Every process scores all images: the first one alone would keep the others waiting beyond their patience.
    sizes = {"image_size": section.image_size, "batch_size": section.batch_size // section.accumulate}
    if isinstance(network, SemanticProbe):
        figure = score_semantic(network, data, **sizes)
    else:
        figure = score_detection(network, data, **sizes)
    if world.is_first:
        write_json(result, {"figure": figure})
        state.remove()
    world.wait()
    return figure


def _depends_on(trial: _Trial, params: Params) -> str:
    """Digest of all that a figure depends on."""
    return fingerprint(
        {
            "task": trial.task,
            "data": params.pull.scenes.model_dump(mode="json") if trial.text == SCENES else trial.text,
            "examples": _digest(trial.data),
            "seed": params.seed,
            "params": params.downstream.model_dump(mode="json"),
            "adapter": params.model.adapter.model_dump(mode="json"),
            "model": digest_file(trial.path),
        }
    )


def _digest(data: ClassSet) -> str:
    """Of the classes and of what names each example, with its annotations where the set's own lists hold them.

    A photograph or a map of classes that is exchanged under the same name is not noticed: to read all of them takes as
    long as a part of the training.
    """
    digest = hashlib.sha256(repr(data.classes).encode())
    for split in (data.train, data.val):
        digest.update(f"{len(split)}".encode())
        for key in split:
            digest.update(repr(key).encode())
    return digest.hexdigest()


def _probe(task: str, backbone: Backbone, params: Params, classes: int) -> SemanticProbe | DetectionProbe:
    section, adapter = params.downstream, params.model.adapter
    if task == "semantic":
        return SemanticProbe(backbone, adapter, classes=classes)
    return DetectionProbe(backbone, adapter, classes=classes, dim=section.detection_dim, image_size=section.image_size)


def table(outcomes: Sequence[Outcome]) -> str:
    """Both backbones of each task, in percent; the paper's figures below, where it has the same task."""
    body = []
    for one in outcomes:
        body.append(_line(one.task, f"{one.data}, measured here", one.before, one.after))
        paper = PAPER_DOWNSTREAM.get((one.task, one.data))
        if paper is not None:
            body.append(_line(one.task, f"{one.data}, published: {SOHES_PAPER}, figure 6", *paper))
    return markdown(["task", "data", "figure", "pre-trained backbone", "after SOHES", "gain"], body)


def _line(task: str, data: str, before: float, after: float) -> list[str]:
    return [task, data, FIGURES[task], f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
