"""Stage `explore`: phase 1 on every training image (paper 3.1).

plan -> shards -> finish. A finished shard under `.sohes/explore/` is never labelled again while the images, the
backbone and the params are the same; `finish` renames all into `data/pseudo_labels/`, with a manifest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sohes import tracking
from sohes.data.store.images import ImageStore, Rejected, new_folder
from sohes.data.store.labels import write_shard
from sohes.errors import SohesError, is_the_machines
from sohes.explore.feature_server import shared_extractor
from sohes.explore.label_image import label_image, make_extractor
from sohes.explore.local import Extract
from sohes.explore.refine import is_label_free, make_refiner, most_workers, require_refiner, weights_digest
from sohes.params import ExploreParams, Params
from sohes.structures import ImageRecord
from sohes.work.files import atomic_path, digest_file, write_json
from sohes.work.pool import Shard, default_workers, plan_shards, report_images, run_shards

SCHEMA_VERSION = 1
BACKBONE = "models/backbone.safetensors"


@dataclass(frozen=True)
class Job:
    """What a worker needs. `work`: the folder of finished shards, named after all that they depend on.

    `extract`: where features come from if not from a backbone of the worker's own.
    """

    params: Params
    root: Path
    work: Path
    extract: Extract | None = None


Labelled = tuple[list[ImageRecord], list[Rejected]]


def missing_shards(params: Params, root: Path) -> list[int]:
    """The shards that are not labelled yet."""
    job, _, shards = _prepare(params, root)
    return [index for index, _ in shards if not _part(job, index).exists()]


def _prepare(params: Params, root: Path) -> tuple[Job, ImageStore, list[Shard]]:
    store = ImageStore(root / "data/images")
    shards: list[Shard] = list(enumerate(plan_shards(store.image_ids, params.explore.images_per_shard)))
    backbone = root / BACKBONE
    if params.explore.features != "handmade" and not backbone.exists():
        raise SohesError(f"no backbone at {backbone}: run `sohes backbone` first")
    require_refiner(params.explore.refiner)  # what it lacks is said now, not once an image
    return Job(params, root, root / ".sohes/explore" / _key(params, root, backbone)), store, shards


def run(params: Params, root: Path, *, shard: int | None = None) -> None:
    """Label what is missing, then finish. With `shard`, label that shard and stop."""
    job, store, shards = _prepare(params, root)
    if shard is not None and shard not in range(len(shards)):
        raise SohesError(f"--shard must lie in 0..{len(shards) - 1} for {len(store)} images (got {shard})")
    wanted = shards if shard is None else [shards[shard]]
    missing = [(index, ids) for index, ids in wanted if not _part(job, index).exists()]
    if shard is not None:
        _label_missing(job, missing, description=f"explore, shard {shard}")
        return
    with tracking.stage_run("explore", params, root) as recorder:
        _label_missing(job, missing, description="explore")
        recorder.metrics(_finish(job, len(shards)))
        recorder.artifact(root / "data/pseudo_labels/manifest.json")


def _key(params: Params, root: Path, backbone: Path) -> str:
    """Changes with the images, the params and the weights that are used: the backbone's, the refiner's."""
    depends = {
        "schema": SCHEMA_VERSION,
        "images": digest_file(root / "data/images/manifest.parquet"),  # which holds the digest of each
        "params": params.explore.model_dump(mode="json"),
        "backbone": digest_file(backbone) if params.explore.features != "handmade" else None,
        "refiner": weights_digest(params.explore.refiner),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- shards


def _shard(job: Job, index: int) -> Path:
    return job.work / f"shard-{index:05d}.parquet"


def _part(job: Job, index: int) -> Path:
    return job.work / "parts" / f"shard-{index:05d}.json"


def _label_missing(job: Job, missing: Sequence[Shard], *, description: str) -> None:
    """Label shards in a pool: one shard a process, or pieces of shards where there are fewer shards than processes."""
    workers = most_workers(job.params.explore.refiner, default_workers())
    if not missing:
        return
    with shared_extractor(job.params.explore, job.root / BACKBONE, workers=workers) as extract:
        _label_in_pool(replace(job, extract=extract), missing, workers=workers, description=description)


def _label_in_pool(job: Job, missing: Sequence[Shard], *, workers: int, description: str) -> None:
    if len(missing) >= workers:
        run_shards(partial(_label_shard, job), missing, workers=workers, description=description)
        return
    pieces: list[Shard] = []
    for index, image_ids in missing:
        piece_size = -(-len(image_ids) * len(missing) // workers)
        pieces += [(index, piece) for piece in plan_shards(image_ids, piece_size)]
    labelled = run_shards(partial(_label_images, job), pieces, workers=workers, description=description, kept=False)
    for index, _ in missing:
        of_shard = [result for (i, _), result in zip(pieces, labelled, strict=True) if i == index]
        records, rejected = ([item for part in parts for item in part] for parts in zip(*of_shard, strict=True))
        _write(job, index, records, rejected)


def _label_shard(job: Job, shard: Shard) -> None:
    _write(job, shard[0], *_label_images(job, shard))


def _label_images(job: Job, shard: Shard) -> Labelled:
    """The records of a shard's images, and those that could not be labelled."""
    store = ImageStore(job.root / "data/images")

    def read(image_id: int) -> tuple[str, np.ndarray]:
        return store.entry(image_id).digest, store.read(image_id)

    named = ((image_id, store.entry(image_id).file_name, partial(read, image_id)) for image_id in shard[1])
    extract = job.extract or make_extractor(job.params.explore, job.root / BACKBONE)
    return label_each(named, extract, job.params.explore)


def label_each(
    images: Iterable[tuple[int, str, Callable[[], tuple[str, np.ndarray]]]], extract: Extract, params: ExploreParams
) -> Labelled:
    """The records of images, and those that could not be read or labelled, with the reason.

    images: id, file name, and what gives the digest and the (H, W, 3) uint8 pixels.
    """
    make_refiner(params.refiner, patch=1)  # a network that cannot be loaded is no image's fault
    records: list[ImageRecord] = []
    rejected: list[Rejected] = []
    for image_id, file_name, read in images:
        try:
            digest, image = read()
            found = label_image(image, extract, params)
        except Exception as error:  # one odd image must not end a run over millions; it is named in rejected.jsonl
            if is_the_machines(error):
                raise
            rejected.append(Rejected(file_name, str(error) or type(error).__name__))
        else:
            records.append(ImageRecord(image_id, file_name, digest, found))
        report_images()
    return records, rejected


def _write(job: Job, index: int, records: list[ImageRecord], rejected: list[Rejected]) -> None:
    """Write one shard; its part file, written last, says that it is done and what it holds."""
    write_shard(_shard(job, index), records)
    part = {
        "images": len(records),
        "masks": Counter(source for record in records for source in record.masks.sources),
        "rejected": [asdict(image) for image in rejected],
    }
    write_json(_part(job, index), part)


# ---------------------------------------------------------------- finish


def _finish(job: Job, shard_count: int) -> dict[str, float]:
    """Publish the shards with their manifest; the counts to record."""
    parts = [json.loads(_part(job, index).read_text("utf-8")) for index in range(shard_count)]
    images = sum(part["images"] for part in parts)
    found = sum((Counter(part["masks"]) for part in parts), Counter())
    rejected = [Rejected(**image) for part in parts for image in part["rejected"]]
    try:
        _check_rejected(images, rejected, job.params.explore.max_rejected_fraction)
    except SohesError:
        for index in range(shard_count):  # the reason may be mended without touching what the key depends on
            if parts[index]["rejected"]:
                _part(job, index).unlink()
        raise
    with new_folder(job.root / "data/pseudo_labels") as published:
        for index in range(shard_count):
            shutil.copyfile(_shard(job, index), published / _shard(job, index).name)
        write_rejected(published / "rejected.jsonl", rejected)
        write_json(
            published / "manifest.json",
            {
                "version": SCHEMA_VERSION,
                "key": job.work.name,
                "images": images,
                "masks": found.total(),
                "masks_by_source": found,
                "rejected": len(rejected),
                "params": job.params.explore.model_dump(mode="json"),
                "label_free": is_label_free(job.params.explore.refiner),
            },
        )
    shutil.rmtree(job.root / ".sohes/explore")  # what is published is whole; another run starts afresh
    return {"images": images, "masks_per_image": found.total() / images, "rejected": len(rejected)}


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    """One line an image that could not be labelled."""
    with atomic_path(path) as temporary:
        lines = (json.dumps(asdict(image), ensure_ascii=False) + "\n" for image in rejected)
        temporary.write_text("".join(lines), encoding="utf-8")


def _check_rejected(images: int, rejected: Sequence[Rejected], max_rejected_fraction: float) -> None:
    """SohesError, with the first images and their reasons, if too little is left."""
    total = images + len(rejected)
    if images and len(rejected) <= max_rejected_fraction * total:
        return
    first = "; ".join(f"{image.file_name}: {image.reason}" for image in rejected[:3])
    raise SohesError(
        f"{len(rejected)} of {total} images could not be labelled, more than explore.max_rejected_fraction "
        f"({max_rejected_fraction:g}) allows: mend or remove them, or raise it. The first: {first}"
    )
