"""`sohes downstream`: the backbone before and after SOHES's training in two supervised tasks (paper 4.4, figure 6).

The ViT stays frozen. A fresh adapter and a plain head are trained on each of both backbones alike: a linear classifier
for semantic segmentation, RetinaNet for detection. A result is kept in `.sohes/downstream/` and not computed again
while all that it depends on is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sohes import tracking
from sohes.backbone.vit import Backbone, load_backbone
from sohes.data.downstream import scenes
from sohes.data.downstream.catalogue import open_class_set
from sohes.data.downstream.examples import ClassSet, ExampleDataset
from sohes.errors import SohesError
from sohes.evaluate.downstream import score_detection, score_semantic
from sohes.evaluate.published import PAPER_DOWNSTREAM, SOHES_PAPER
from sohes.evaluate.tables import markdown
from sohes.files import digest_file, write_json
from sohes.model.probes import DetectionProbe, SemanticProbe
from sohes.params import Params
from sohes.stages.training import require
from sohes.train.checkpoint import load_checkpoint
from sohes.train.probe import train_probe
from sohes.train.state import ResumableState, fingerprint
from sohes.train.world import World, join_world

BACKBONES = {"before": "backbone", "after": "correct"}  # whose file in models/ holds the ViT
FIGURES = {"semantic": "mean IoU", "detection": "AP of boxes"}
SCENES = "scenes"


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
    rows: list[dict[str, object]] = []
    with join_world() as world, tracking.stage_run("downstream", params, root) as recorder:
        for task, data in sets.items():
            row: dict[str, object] = {
                "task": task,
                "data": wanted[task].partition("=")[0],
                "classes": len(data.classes),
            }
            row |= {"train_images": len(data.train), "images": len(data.val)}
            for which in BACKBONES:
                row[which] = _one(task, which, data, wanted[task], paths[which], params, root, world, recorder)
            rows.append(row)
        if world.is_first:
            write_json(root / "metrics/downstream.json", rows)
            recorder.metrics({f"{row['task']}/{which}": float(str(row[which])) for row in rows for which in BACKBONES})
            recorder.artifact(root / "metrics/downstream.json")
    return _table(rows)


def _open(task: str, text: str, params: Params) -> ClassSet:
    data = scenes.open_set(params.pull.scenes, seed=params.seed) if text == SCENES else open_class_set(task, text)
    if task == "detection" and not any(len(data.read(key).boxes_T4) for key in data.val):
        raise SohesError(f"no validation image of {text} has a box, so detection cannot be scored on it")
    return data


def _one(
    task: str,
    which: str,
    data: ClassSet,
    text: str,
    path: Path,
    params: Params,
    root: Path,
    world: World,
    recorder: tracking.Recorder,
) -> float:
    """One task on one backbone: its figure in percent."""
    section = params.downstream
    depends = fingerprint(
        {
            "task": task,
            "data": text if text != SCENES else params.pull.scenes.model_dump(mode="json"),
            "images": [len(data.train), len(data.val)],
            "seed": params.seed,
            "params": section.model_dump(mode="json"),
            "adapter": params.model.adapter.model_dump(mode="json"),
            "model": digest_file(path),
        }
    )
    result = root / ".sohes/downstream" / f"{task}-{which}-{depends}.json"
    if result.exists():
        return json.loads(result.read_text())["figure"]
    backbone = _backbone(which, path)
    torch.manual_seed(params.seed)  # from here on both backbones draw the same: the adapter, the head
    network = _probe(task, backbone, params, len(data.classes))
    normalisation = (network.backbone.mean, network.backbone.std)
    dataset = ExampleDataset(
        data,
        image_size=section.image_size,
        batch_size=section.batch_size,
        normalisation=normalisation,
        seed=params.seed,
    )
    state = ResumableState(root / f".sohes/downstream/{task}-{which}", depends, may_write=world.is_first)
    state.begin(recorder.run_id)
    history = train_probe(
        network,
        dataset,
        section,
        seed=params.seed,
        world=world,
        state=state,
        recorder=_Prefixed(recorder, f"{task}-{which}"),
    )
    # Every process scores: none waits for the first one longer than its own patience with the network.
    part = section.batch_size // section.accumulate
    sizes = {"image_size": section.image_size, "batch_size": max(1, part)}
    if isinstance(network, SemanticProbe):
        figure = score_semantic(network, data, **sizes)
    else:
        figure = score_detection(network, data, **sizes)
    if world.is_first:
        write_json(result, {"figure": figure, "loss": history[-1]["loss"]})
        state.remove()
    world.wait()
    return figure


def _backbone(which: str, path: Path) -> Backbone:
    return load_backbone(path) if which == "before" else load_checkpoint(path)[0].backbone


def _probe(task: str, backbone: Backbone, params: Params, classes: int) -> SemanticProbe | DetectionProbe:
    if task == "semantic":
        return SemanticProbe(backbone, params.model.adapter, classes=classes)
    section = params.downstream
    return DetectionProbe(
        backbone, params.model.adapter, classes=classes, dim=section.detection_dim, image_size=section.image_size
    )


def _table(rows: list[dict[str, object]]) -> str:
    """Both backbones of each task, in percent; the paper's figures below, where it has the same task."""
    header = ["task", "data", "figure", "pre-trained backbone", "after SOHES", "gain"]
    body = []
    for row in rows:
        before, after = (float(str(row[which])) for which in BACKBONES)
        body.append(_line(str(row["task"]), f"{row['data']}, measured here", before, after))
        paper = PAPER_DOWNSTREAM.get((str(row["task"]), str(row["data"])))
        if paper is not None:
            body.append(_line(str(row["task"]), f"{row['data']}, published: {SOHES_PAPER}, figure 6", *paper))
    return markdown(header, body)


def _line(task: str, data: str, before: float, after: float) -> list[str]:
    return [task, data, FIGURES[task], f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
