"""Stage `backbone`: the ViT, trained here on the pulled images, from a file, or from timm's hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from sohes import tracking
from sohes.backbone.label_free import is_label_free
from sohes.backbone.vit import build_backbone, save_backbone
from sohes.data.store.images import ImageStore
from sohes.params import Params
from sohes.project import Project, require
from sohes.train.crops import CropDataset
from sohes.train.dino import Distillation
from sohes.train.loop import train
from sohes.train.state import resumable
from sohes.train.world import is_first_process, join_world
from sohes.work.files import digest_file
from sohes.work.identity import code_digest


def run(params: Params, root: Path) -> None:
    """Write `models/backbone.safetensors` and its card; training continues where the same command was stopped.

    SohesError if there are no images to train on, or the weights cannot be obtained.
    """
    project = Project(root)
    torch.manual_seed(params.seed)
    if params.backbone.pretrained == "train":
        _train(params, project)
    elif is_first_process():
        card = {**made_of(params), "label_free": is_label_free(params.backbone.pretrained)}
        backbone = build_backbone(params.backbone)
        with tracking.stage_run("backbone", params, root) as recorder:
            save_backbone(backbone, project.model("backbone"), card)
            recorder.artifact(project.card("backbone"))


def made_of(params: Params) -> dict[str, object]:
    """What the card says of the params; of a backbone that was trained here it names the images, too."""
    return {"seed": params.seed, "params": params.backbone.model_dump(mode="json")}


def _train(params: Params, project: Project) -> None:
    """DINO on the pulled images (`sohes.train.dino`)."""
    dino = params.backbone.dino
    manifest = require(project.images / "manifest.parquet", "images", "pull")
    made = {**made_of(params), "images": digest_file(manifest)}
    backbone = build_backbone(params.backbone)
    dataset = CropDataset(ImageStore(project.images), backbone, dino, seed=params.seed)
    depends = {**made, "code": code_digest("sohes.stages.backbone")}
    open_run = partial(tracking.stage_run, "backbone", params, project.root)
    with join_world() as world, resumable(project.state("backbone"), depends, world, open_run) as (state, recorder):
        learner = Distillation(backbone, dino, world, seed=params.seed)
        train(learner, dataset, dino, title="backbone", seed=params.seed, world=world, state=state, recorder=recorder)
        if world.is_first:
            card = {**made, "label_free": is_label_free(params.backbone.pretrained)}
            save_backbone(learner.kept.backbone, project.model("backbone"), card)
            recorder.artifact(project.card("backbone"))
