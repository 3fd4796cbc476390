"""Stage `backbone`: the ViT, trained or distilled here on the pulled images, from a file, or from timm's hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from sohes import tracking
from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.backbone.label_free import is_label_free
from sohes.backbone.vit import Backbone
from sohes.data.store.images import ImageStore
from sohes.params import TRAINED_HERE, DinoParams, DistillParams, Params, weights_in
from sohes.project import Project, require
from sohes.train.crops import CropDataset, ViewDataset
from sohes.train.dino import Dino
from sohes.train.distill import Imitation
from sohes.train.loading import stage_seed
from sohes.train.loop import train
from sohes.train.state import resumable
from sohes.train.world import World, join_world
from sohes.work.alone import is_first_process
from sohes.work.files import digest_file
from sohes.work.identity import code_digest
from sohes.work.origin import Check, unchecked


def run(params: Params, root: Path, *, unchanged: Check = unchecked) -> None:
    """Write `models/backbone.safetensors` and its card; training continues where the same command was stopped.

    unchanged: see `Origin`. SohesError if there are no images to train on, or the weights cannot be obtained.
    """
    project = Project(root)
    torch.manual_seed(params.seed)
    if params.backbone.pretrained in TRAINED_HERE:
        _train(params, project, unchanged)
    elif is_first_process():
        card = {**made_of(params), "label_free": is_label_free(weights_in(root, params.backbone.pretrained))}
        backbone = build_backbone(params.backbone, root)
        with tracking.stage_run("backbone", params, root) as recorder:
            unchanged()
            save_backbone(backbone, project.model("backbone"), card)
            recorder.artifact(project.card("backbone"))


def made_of(params: Params) -> dict[str, object]:
    """What the card says of the params; of a backbone that was trained here it names the images, too."""
    return {"seed": params.seed, "params": params.backbone.model_dump(mode="json")}


def _train(params: Params, project: Project, unchanged: Check) -> None:
    """DINO (`sohes.train.dino`) or a teacher's features (`sohes.train.distill`) on the pulled images."""
    source = weights_in(project.root, params.backbone.source)
    manifest = require(project.images_manifest, "images", "pull")
    made = {**made_of(params), "images": digest_file(manifest)}
    if Path(source).is_file():
        made["teacher"] = digest_file(source)
    backbone = build_backbone(params.backbone)
    depends = {**made, "code": code_digest("sohes.stages.backbone")}
    open_run = partial(tracking.stage_run, "backbone", params, project.root)
    with join_world() as world, resumable(project.state("backbone"), depends, world, open_run) as (state, recorder):
        learner, dataset, section = _lesson(params, backbone, project, world)
        train(
            learner, dataset, section, title="backbone", seed=params.seed, world=world, state=state, recorder=recorder
        )
        if world.is_first:
            unchanged()
            card = {**made, "label_free": is_label_free(source)}
            save_backbone(learner.kept.backbone, project.model("backbone"), card)
            recorder.artifact(project.card("backbone"))


def _lesson(
    params: Params, backbone: Backbone, project: Project, world: World
) -> tuple[Dino | Imitation, CropDataset | ViewDataset, DinoParams | DistillParams]:
    """Who learns, from what, by which section of the params."""
    section, seed, images = params.backbone, params.seed, ImageStore(project.images)
    of_data = stage_seed(seed, "backbone")
    if section.pretrained == "train":
        crops = CropDataset(images, backbone, section.dino, seed=of_data)
        return Dino(backbone, section.dino, world, seed=seed), crops, section.dino
    views = ViewDataset(images, section.distill, seed=of_data)
    teacher = build_backbone(section.distill.teacher, project.root)
    return Imitation(backbone, teacher, section.distill, world, seed=seed), views, section.distill
