"""What stages write, at once: a store of images, all that a training needs, all that the report needs."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sohes import masks
from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.backbone.vit import Backbone
from sohes.data.store.labels import write_shard
from sohes.data.store.pack import Candidate, pack_shard, shard_name, write_manifest
from sohes.data.store.rejected import check_rejected
from sohes.params import Params
from sohes.project import Project
from sohes.stages import evaluate, explore, pull
from sohes.structures import ImageRecord
from sohes.work.cost import measured
from sohes.work.publish import new_folder

IMAGES = 8


def pack_images(
    candidates: Iterable[Candidate],
    folder: Path,
    *,
    images_per_shard: int = 100,
    max_megapixels: float = 1,
    apply_exif: bool = False,
    max_rejected_fraction: float = 0,
) -> None:
    """Pack (image id, file name, bytes) into a new store, which replaces `folder` once it is whole."""
    with new_folder(folder) as temporary:
        packed, rejected, rest = [], [], iter(candidates)
        for index in itertools.count():
            if not (group := list(itertools.islice(rest, images_per_shard))):
                break
            path = temporary / shard_name(index)
            done = pack_shard(group, path, max_megapixels=max_megapixels, apply_exif=apply_exif)
            packed += done.entries
            rejected += done.rejected
        check_rejected(len(packed), rejected, max_rejected_fraction=max_rejected_fraction)
        write_manifest(temporary, packed, rejected)


def make_project(root: Path, *, labelled=range(IMAGES)) -> None:
    """Photographs, pseudo-labels (those not in `labelled` have no masks) and a backbone."""
    rng = np.random.default_rng(0)
    entries, records = [], []
    for image_id in range(IMAGES):
        image, shown = rng.integers(0, 100, (48, 64, 3), np.uint8), np.zeros((2, 48, 64), bool)
        top, left = rng.integers(0, 20, 2)
        shown[0, top : top + 26, left : left + 26], shown[1, top + 4 : top + 16, left + 4 : left + 16] = True, True
        image[shown[0]] += 80
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        entries.append((image_id, f"{image_id}.png", file.getvalue()))
        found = masks.mask_set(shown, parents=[-1, 0]) if image_id in labelled else masks.empty_mask_set(48, 64)
        records.append(ImageRecord(image_id, f"{image_id}.png", "", found))
    limits = {"images_per_shard": 100, "max_megapixels": 1, "max_rejected_fraction": 0}
    for images, labels in (("images", "pseudo_labels"), ("eval", "eval/labels")):
        pack_images(entries, root / "data" / images, apply_exif=False, **limits)
        (root / "data" / labels).mkdir()
        write_shard(root / "data" / labels / "shard-00000.parquet", records)
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 64}
    save_backbone(Backbone("vit_tiny_patch16_224", shape), root / "models/backbone.safetensors", {})


def make_evaluated(root: Path, params: Params, model: Path) -> Project:
    """A project in which everything but the report has run, with an untrained network for both trained phases."""
    project = Project(root)
    pull.run(params, root)
    explore.run(params, root)
    save_backbone(build_backbone(params.backbone), project.model("backbone"), {})
    for phase in ("instruct", "correct"):
        if project.model(phase) != model:
            shutil.copy(model, project.model(phase))
            shutil.copy(model.with_suffix(".json"), project.card(phase))
        project.metrics(phase).parent.mkdir(exist_ok=True)
        project.metrics(phase).write_text(json.dumps([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    evaluate.run(params, root)
    for stage in ("pull", "backbone", "explore", "instruct", "correct", "evaluate"):
        with measured(stage, params, root):
            pass
    return project
