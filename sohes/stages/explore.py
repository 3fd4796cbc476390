"""Stage `explore`: phase 1 on every training image (paper 3.1)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sohes import tracking
from sohes.data.store.images import ImageStore
from sohes.data.store.rejected import Rejected, check_rejected, write_rejected
from sohes.errors import SohesError
from sohes.explore import label_free
from sohes.explore.feature_server import shared_extractor
from sohes.explore.label_images import Labelled, label_images, write_labelled
from sohes.explore.local import Extract
from sohes.explore.maps import make_extractor
from sohes.explore.refine import most_workers, require_refiner, weights_digest
from sohes.params import Params
from sohes.project import Project, require
from sohes.work.files import digest_file, write_json
from sohes.work.identity import code_digest, identity
from sohes.work.origin import Check, unchecked
from sohes.work.pool import as_ranges, default_workers, plan_shards
from sohes.work.publish import new_folder, require_replaceable
from sohes.work.sharded import Facts, ShardedWork

SCHEMA_VERSION = 1


def missing_shards(params: Params, root: Path) -> list[int]:
    """The shards that are not labelled yet."""
    return _plan(params, root)[0].missing()


def run(params: Params, root: Path, *, shards: range | None = None, unchanged: Check = unchecked) -> None:
    """Label what is missing, then publish it. With `shards`, label those and stop. unchanged: see `Origin`."""
    work, images = _plan(params, root)
    left = work.left(shards, of=f"{images} images")
    require_replaceable(Project(root).pseudo_labels)
    if shards is not None:
        _label(work, left, params, root, description=f"explore, shard {as_ranges(shards)}")
        return
    with tracking.stage_run("explore", params, root) as recorder:
        _label(work, left, params, root, description="explore")
        unchanged()
        recorder.metrics(_publish(work, params, root))
        recorder.artifact(Project(root).pseudo_labels / "manifest.json")


def _plan(params: Params, root: Path) -> tuple[ShardedWork, int]:
    """The shards, and the number of images in them."""
    project, section = Project(root), params.explore
    store = ImageStore(project.images)
    if section.uses_backbone:
        require(project.model("backbone"), "backbone", "backbone")
    require_refiner(section.refiner)  # what it lacks is said now, not once per image
    depends = {
        "schema": SCHEMA_VERSION,
        "code": code_digest("sohes.stages.explore"),
        "images": digest_file(project.images_manifest),  # which holds the digest of each
        "params": section.model_dump(mode="json"),
        "backbone": digest_file(project.model("backbone")) if section.uses_backbone else None,
        "refiner": weights_digest(section.refiner),
    }
    folder = project.state("explore") / identity(depends)
    return ShardedWork(folder, plan_shards(store.image_ids, section.images_per_shard)), len(store)


def _label(work: ShardedWork, left: Sequence[Any], params: Params, root: Path, *, description: str) -> None:
    if not left:
        return
    workers = most_workers(params.explore.refiner, default_workers())
    with shared_extractor(params.explore, Project(root).model("backbone"), workers=workers) as extract:
        compute = partial(_compute, params, root, extract)
        work.spread(compute, write_labelled, left, workers=workers, description=description)


def _compute(params: Params, root: Path, extract: Extract | None, image_ids: Sequence[int]) -> Labelled:
    """extract: where features come from if not from a backbone of the worker's own."""
    project = Project(root)
    store = ImageStore(project.images)

    def read(image_id: int) -> tuple[str, np.ndarray]:
        return store.entry(image_id).digest, store.read(image_id)

    named = ((image_id, store.entry(image_id).file_name, partial(read, image_id)) for image_id in map(int, image_ids))
    features = extract or make_extractor(params.explore, project.model("backbone"))
    return label_images(named, features, params.explore)


# ---------------------------------------------------------------- publish


def _publish(work: ShardedWork, params: Params, root: Path) -> dict[str, float]:
    """Publish the shards with their manifest; the counts to record."""
    facts, backbone = work.facts(), Project(root).model("backbone")
    counts, rejected = add_up(facts, label_free.of_labels(params.explore, backbone))
    images = counts["images"]
    try:
        limit = params.explore.max_rejected_fraction
        check_rejected(images, rejected, max_rejected_fraction=limit, stage="explore")
    except SohesError:
        work.redo(index for index, part in enumerate(facts) if part["rejected"])
        raise
    with new_folder(Project(root).pseudo_labels) as published:
        for index in range(len(work.shards)):
            shutil.copy(work.path(index, ".parquet"), published)
        write_rejected(published / "rejected.jsonl", rejected)
        write_json(
            published / "manifest.json",
            {**counts, "key": work.folder.name, "params": params.explore.model_dump(mode="json")},
        )
    work.remove()
    return {"images": images, "masks_per_image": counts["masks"] / images, "rejected": len(rejected)}


def add_up(facts: Sequence[Facts], claim: bool | None) -> tuple[dict[str, Any], list[Rejected]]:
    """What the shards hold together, for their manifest, and the rejected images. claim: whether label-free."""
    masks: Counter[str] = sum((Counter(part["masks"]) for part in facts), Counter())
    rejected = [Rejected(**image) for part in facts for image in part["rejected"]]
    counts = {
        "version": SCHEMA_VERSION,
        "images": sum(part["images"] for part in facts),
        "masks": masks.total(),
        "masks_by_source": masks,
        "rejected": len(rejected),
        "label_free": claim,
    }
    return counts, rejected
