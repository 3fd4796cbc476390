"""Stage `pull`: the images, checked and packed, for training in `data/images/` and held out in `data/eval/`.

plan -> shards -> finish. A finished shard under `.sohes/pull/` is never packed again while the source's files and the
params are the same; `finish` writes the manifests and the ground truth, and renames the two folders into place.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from sohes import tracking
from sohes.data.images import (
    Candidate,
    ImageEntry,
    ImageStore,
    Rejected,
    UnreadableImage,
    check_rejected,
    pack_shard,
    publish_folder,
    shard_name,
    write_manifest,
)
from sohes.data.labels import write_shard
from sohes.data.shards import Shard, default_workers, plan_shards, report_images, run_shards
from sohes.data.sources.folder import FolderSource
from sohes.data.sources.scenes import ScenesSource
from sohes.data.sources.source import Photograph, Plan, Source
from sohes.errors import SohesError
from sohes.files import write_json
from sohes.params import Params
from sohes.structures import ImageRecord

SPLITS = ("images", "eval")


@dataclass(frozen=True)
class Job:
    """What a worker needs. `work`: the folder of unfinished business; a split's first shard is `starts[split]`."""

    source: Source
    work: Path
    starts: tuple[int, int]
    apply_exif: bool
    max_megapixels: float


def run(params: Params, root: Path, *, shard: int | None = None) -> None:
    """Pack what is missing, then finish. With `shard`, pack that shard and stop."""
    source = make_source(params, root)
    plan = source.plan()
    pieces = [plan_shards(photographs, params.pull.images_per_shard) for photographs in (plan.train, plan.held_out)]
    shards: list[Shard] = list(enumerate(itertools.chain(*pieces)))
    if shard is not None and shard not in range(len(shards)):
        raise SohesError(f"--shard must lie in 0..{len(shards) - 1} for these images (got {shard})")
    work = root / ".sohes/pull" / _key(params, plan)
    job = Job(source, work, (0, len(pieces[0])), plan.apply_exif, params.pull.max_megapixels)
    wanted = shards if shard is None else [shards[shard]]
    missing = [(index, items) for index, items in wanted if not _part_path(job, index).exists()]
    if shard is not None:
        run_shards(partial(_pack, job), missing, workers=0, description=f"pull, shard {shard}")
        return
    with tracking.stage_run("pull", params, root) as recorder:
        run_shards(partial(_pack, job), missing, workers=default_workers(), description="pull")
        recorder.metrics(_finish(job, plan, len(shards), params, root))
        for split in SPLITS:
            recorder.artifact(root / "data" / split / "rejected.jsonl")


def make_source(params: Params, root: Path) -> Source:
    """The source that `pull.source` names; relative paths start at the project's folder."""
    if params.pull.source == "scenes":
        scenes = params.pull.scenes
        return ScenesSource(size=scenes.size, train=scenes.train, held_out=scenes.eval, seed=params.seed)
    folder = params.pull.folder
    if folder.images is None:
        raise SohesError("pull.source is folder but pull.folder.images is null: name your folder of photographs there")
    annotations = None if folder.annotations is None else root / folder.annotations.expanduser()
    return FolderSource(root / folder.images.expanduser(), annotations, folder.eval_fraction)


def _key(params: Params, plan: Plan) -> str:
    """Changes with the params and with any file of the source: shards of another plan are not taken for this one's."""
    text = json.dumps([params.pull.model_dump(mode="json"), params.seed, asdict(plan)], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


# ---------------------------------------------------------------- shards


def _split_of(job: Job, index: int) -> tuple[str, int]:
    """The split that a shard belongs to, and its place there."""
    split = int(index >= job.starts[1])
    return SPLITS[split], index - job.starts[split]


def _part_path(job: Job, index: int) -> Path:
    return job.work / "parts" / f"shard-{index:05d}.json"


def _pack(job: Job, shard: Shard) -> None:
    """Pack one shard; its part file, written last, says that it is done and what it holds."""
    index, photographs = shard
    split, place = _split_of(job, index)
    packed, rejected = pack_shard(
        _candidates(job.source, photographs),
        job.work / split / shard_name(place),
        max_megapixels=job.max_megapixels,
        apply_exif=job.apply_exif,
        expected_hw={p.image_id: p.expected_hw for p in photographs if p.expected_hw is not None},
    )
    part = {"packed": [asdict(entry) for entry in packed], "rejected": [asdict(image) for image in rejected]}
    write_json(_part_path(job, index), part)


def _candidates(source: Source, photographs: Sequence[Photograph]) -> Iterator[Candidate]:
    for photograph in photographs:
        try:
            yield photograph.image_id, photograph.file_name, source.read(photograph)
        except UnreadableImage as error:
            yield photograph.image_id, photograph.file_name, error
        report_images()


# ---------------------------------------------------------------- finish


def _finish(job: Job, plan: Plan, shard_count: int, params: Params, root: Path) -> dict[str, float]:
    """Check, write manifests and ground truth, and publish both folders; the counts to record."""
    packed: dict[str, list[ImageEntry]] = {split: [] for split in SPLITS}
    rejected: dict[str, list[Rejected]] = {split: [] for split in SPLITS}
    for index in range(shard_count):
        part = json.loads(_part_path(job, index).read_text("utf-8"))
        split = _split_of(job, index)[0]
        packed[split] += [ImageEntry(**entry) for entry in part["packed"]]
        rejected[split] += [Rejected(**image) for image in part["rejected"]]
    try:
        _check(packed, rejected, plan, params.pull.max_rejected_fraction)
    except SohesError:
        _forget_rejections(job, shard_count)
        raise
    for split in SPLITS:
        (job.work / split).mkdir(exist_ok=True)
        for leftover in (job.work / split).glob(".*"):  # a killed worker's
            leftover.unlink()
        write_manifest(job.work / split, packed[split], rejected[split], note=". ".join(plan.notes))
    _write_truth(job, params.pull.images_per_shard)
    for split in SPLITS:
        publish_folder(job.work / split, root / "data" / split)
    shutil.rmtree(root / ".sohes/pull")
    _tell(packed, rejected, plan)
    unusable = {(image.file_name, image.reason) for split in SPLITS for image in rejected[split]}
    return {"images": len(packed["images"]), "eval_images": len(packed["eval"]), "rejected": len(unusable)}


def _check(
    packed: dict[str, list[ImageEntry]], rejected: dict[str, list[Rejected]], plan: Plan, max_rejected_fraction: float
) -> None:
    """The allowed fraction is of all images: one bad photograph among a few held-out ones is no reason to stop."""
    everything = list(itertools.chain(*rejected.values()))
    check_rejected(sum(map(len, packed.values())), everything, max_rejected_fraction=max_rejected_fraction)
    check_rejected(len(packed["images"]), rejected["images"], max_rejected_fraction=1)
    if plan.held_out:
        check_rejected(len(packed["eval"]), rejected["eval"], max_rejected_fraction=1)


def _forget_rejections(job: Job, shard_count: int) -> None:
    """Shards with a rejected image are packed anew next time: the reason may be mended without touching the file."""
    for path in (_part_path(job, index) for index in range(shard_count)):
        if json.loads(path.read_text("utf-8"))["rejected"]:
            path.unlink()


def _write_truth(job: Job, images_per_shard: int) -> None:
    """`eval/labels/`, where the source knows the truth, with each image's digest from the manifest."""
    store = ImageStore(job.work / "eval")
    records = job.source.truth(store.image_ids)
    if records is None or not len(store):
        return
    shutil.rmtree(job.work / "eval/labels", ignore_errors=True)
    with_digests = (_with_digest(record, store) for record in records)
    for index in itertools.count():
        if not (group := list(itertools.islice(with_digests, images_per_shard))):
            break
        write_shard(job.work / f"eval/labels/shard-{index:05d}.parquet", group)


def _with_digest(record: ImageRecord, store: ImageStore) -> ImageRecord:
    return replace(record, digest=store.entry(record.image_id).digest)


def _tell(packed: dict[str, list[ImageEntry]], rejected: dict[str, list[Rejected]], plan: Plan) -> None:
    counts = f"{len(packed['images'])} images for training, {len(packed['eval'])} held out"
    left_out = sum(map(len, rejected.values()))
    if left_out:
        counts += f", {left_out} rejected (see rejected.jsonl beside them)"
    for sentence in (counts, *plan.notes):
        print(f"pull: {sentence}", file=sys.stderr)
