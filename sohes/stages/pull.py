"""Stage `pull`: the images, checked and packed, for training in `data/images/` and held out in `data/eval/`.

plan -> shards -> finish. Finished shards wait beside `data/images`, on the same disk, and none is packed again while
its own photographs and the params are the same, whatever comes or goes beside them; `finish` writes the manifests and
the ground truth, and renames the two folders into place. A source that comes in packs has one shard a pack: fetched,
packed into both splits, and removed.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from sohes import tracking
from sohes.data.benchmarks import own
from sohes.data.sources.folder import FolderSource
from sohes.data.sources.named import named_source
from sohes.data.sources.source import Pack, PackSource, Photograph, Plan, Source
from sohes.data.sources.transfer import check_disk
from sohes.data.store.decode import UnreadableImage
from sohes.data.store.images import ImageEntry, ImageStore
from sohes.data.store.labels import iter_records, write_shard
from sohes.data.store.pack import Candidate, pack_shard, shard_name, write_manifest
from sohes.data.store.rejected import check_rejected
from sohes.data.store.tally import Tally, add_up, facts_of
from sohes.errors import SohesError, TemporaryError
from sohes.masks.mask_json import Remarks
from sohes.params import Params
from sohes.params.pull import PullParams
from sohes.project import Project
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import write_json
from sohes.work.identity import code_digest, identity
from sohes.work.origin import Check, unchecked
from sohes.work.pool import Shard, as_ranges, default_workers, plan_shards, report_images
from sohes.work.publish import publish_folder, require_replaceable, unfinished
from sohes.work.sharded import Facts, ShardedWork

SPLITS = ("images", "eval")


@dataclass(frozen=True)
class Job:
    """What a worker needs. `work`: the folder of finished shards; a split's first shard is `starts[split]`."""

    source: Source | PackSource
    work: Path
    starts: tuple[int, int]
    apply_exif: bool
    max_megapixels: float
    annotations_upright: bool


def missing_shards(params: Params, root: Path) -> list[int]:
    """The shards that are not packed yet."""
    return _plan(params, root)[1].missing()


def _plan(params: Params, root: Path) -> tuple[Job, ShardedWork, Plan]:
    source = named_source(params, root)
    plan = source.plan()
    pieces = [plan_shards(photographs, params.pull.images_per_shard) for photographs in (plan.train, plan.held_out)]
    work = ShardedWork(
        unfinished(Project(root).images) / _identity(params, plan),
        [[pack] for pack in plan.packs] or list(itertools.chain(*pieces)),
        [] if plan.packs else [f"{s}-{k:05d}" for s, of in zip(SPLITS, pieces, strict=True) for k in range(len(of))],
        _of_items,
    )
    pull = params.pull
    starts = 0, len(pieces[0])
    job = Job(source, work.folder, starts, plan.apply_exif, pull.max_megapixels, pull.annotations_upright)
    return job, work, plan


def run(params: Params, root: Path, *, shards: range | None = None, unchanged: Check = unchecked) -> None:
    """Pack what is missing, then publish it. With `shards`, pack those and stop. unchanged: see `Origin`."""
    job, work, plan = _plan(params, root)
    left = work.left(shards, of="these images")
    for folder in _splits(root).values():
        require_replaceable(folder)
    sizes = [sum(item.size for item in items) for _, items in left]
    # What is fetched lies beside what is packed from it until its shard is done.
    fetched = sum(sorted(sizes)[-default_workers() :]) if plan.packs else 0
    check_disk(job.work, sum(sizes) + fetched, "pull")
    check_disk(unfinished(Project(root).held_out), sum(photograph.size for photograph in plan.held_out), "pull")
    if shards is not None:
        work.run(partial(_pack, job), left, workers=default_workers(), description=f"pull, shard {as_ranges(shards)}")
        return
    with tracking.stage_run("pull", params, root) as recorder:
        plan = _with_checked_truth(job, plan)
        work.run(partial(_pack, job), left, workers=default_workers(), description="pull")
        unchanged()
        plan = _with_newcomers(plan, params, root)
        recorder.metrics(_publish(job, work, plan, params, root))
        for folder in _splits(root).values():
            recorder.artifact(folder / "rejected.jsonl")


def _with_checked_truth(job: Job, plan: Plan) -> Plan:
    """The plan with a note on every kind of annotation that is left out. SohesError for a broken file, by name."""
    if not isinstance(job.source, FolderSource) or job.source.annotations is None:
        return plan
    notes = own.check(job.source.annotations, {photograph.image_id for photograph in plan.held_out})
    return replace(plan, notes=(*plan.notes, *notes))


def _with_newcomers(plan: Plan, params: Params, root: Path) -> Plan:
    """The plan with a note on photographs that have come since.

    TemporaryError if a file of the plan is gone or is another: nobody knows which was packed. Single objects of S3 are
    read as they were listed, or not at all.
    """
    now = named_source(params, root).plan()
    changed = plan.files - now.files
    if changed:
        raise TemporaryError(
            f"{len(changed)} files of pull.source {params.pull.source} changed while pull ran, such as "
            f"{min(changed)[0]}: nothing is published, run it again; what did not change is kept"
        )
    if (more := now.count - plan.count) > 0:
        what = "archives or photographs" if plan.packs else "photographs"
        return replace(plan, notes=(*plan.notes, f"{more} {what} have come meanwhile: run it again to have them, too"))
    return plan


def _splits(root: Path) -> dict[str, Path]:
    """Where each split is published."""
    return dict(zip(SPLITS, (Project(root).images, Project(root).held_out), strict=True))


def _identity(params: Params, plan: Plan) -> str:
    """Changes with what any shard depends on: how photographs are packed, where they are from, and the code.

    Not with the list of SA-1B's links, which expire and are replaced before all packs have come, nor with that of the
    digests, of which each pack has its own.
    """
    pull = params.pull
    source = getattr(pull, pull.source).model_dump(mode="json", exclude={"links", "digests"})
    packing = [pull.source, source, plan.apply_exif, pull.max_megapixels, pull.annotations_upright, params.seed]
    return identity([packing, code_digest("sohes.stages.pull")])


def _of_items(items: Sequence[Photograph | Pack]) -> str:
    return identity([asdict(item) for item in items])


# ---------------------------------------------------------------- shards


def _pack(job: Job, shard: Shard) -> Facts:
    """Pack one shard; what it holds."""
    index, photographs = shard
    if isinstance(photographs[0], Pack):
        return _pack_pack(job, photographs[0])
    number = int(index >= job.starts[1])
    split = SPLITS[number]
    done = pack_shard(
        _candidates(cast(Source, job.source), photographs),
        job.work / split / shard_name(index - job.starts[number]),
        max_megapixels=job.max_megapixels,
        apply_exif=job.apply_exif,
        expected_hw={p.image_id: p.expected_hw for p in photographs if p.expected_hw is not None},
        annotations_upright=job.annotations_upright,
    )
    return {split: facts_of(done)}


def _pack_pack(job: Job, pack: Pack) -> Facts:
    """Fetch a pack, pack its photographs by their split and the truth of those held out, and remove it."""
    downloads = job.work / "downloads" / _of_items([pack])  # not by its index, which another may have had
    source = cast(PackSource, job.source)
    digest = source.fetch(pack, downloads)
    _truth_path(job, pack.index).unlink(missing_ok=True)
    remarks = Remarks()
    facts: Facts = {"pack": {"name": pack.name, "digest": digest}}
    for split in SPLITS:
        path = job.work / split / shard_name(pack.index)
        truth: dict[int, MaskSet] = {}
        sizes: dict[int, tuple[int, int]] = {}

        def candidates(split: str = split, truth: dict = truth, sizes: dict = sizes) -> Iterator[Candidate]:
            for member in source.members(pack, downloads, held_out=split == "eval", remarks=remarks):
                if member.truth is not None:
                    truth[member.image_id] = member.truth
                    sizes[member.image_id] = (member.truth.height, member.truth.width)
                yield member.image_id, member.file_name, member.data

        # `sizes` is filled while the photographs come: each one's before the photograph itself.
        done = pack_shard(
            candidates(),
            path,
            max_megapixels=job.max_megapixels,
            apply_exif=job.apply_exif,
            expected_hw=sizes,
            annotations_upright=job.annotations_upright,
        )
        if not done.entries:
            path.unlink()
        if truth:
            known = [entry for entry in done.entries if entry.image_id in truth]
            records = (ImageRecord(e.image_id, e.file_name, e.digest, truth[e.image_id]) for e in known)
            write_shard(_truth_path(job, pack.index), records)
        facts[split] = facts_of(done)
    facts["notes"] = remarks.sentences(Path(pack.name))
    shutil.rmtree(downloads, ignore_errors=True)
    return facts


def _truth_path(job: Job, index: int) -> Path:
    return job.work / "truth" / f"shard-{index:05d}.parquet"


def _candidates(source: Source, photographs: Sequence[Photograph]) -> Iterator[Candidate]:
    for photograph in photographs:
        try:
            yield photograph.image_id, photograph.file_name, source.read(photograph)
        except UnreadableImage as error:
            yield photograph.image_id, photograph.file_name, error
        report_images()


# ---------------------------------------------------------------- publish


def _publish(job: Job, work: ShardedWork, plan: Plan, params: Params, root: Path) -> dict[str, float]:
    """Check, write manifests and ground truth, and publish both folders; the counts to record."""
    found = add_up(work.each_fact(), SPLITS, apply_exif=job.apply_exif)
    notes = [*plan.notes, *found.notes, *_notes_on_exif(found, job)]
    if not params.pull.holds_out:
        notes.append(f"nothing is held out, so nothing can be scored: raise {params.pull.held_out_key}")
    plan = replace(plan, notes=tuple(notes))
    try:
        _check(found, params.pull)
    except SohesError:  # a photograph may be repaired where nobody can tell
        work.redo(index for index in found.spoilt if not (plan.packs and plan.packs[index].stamp))
        raise
    for split, count in zip(SPLITS, (job.starts[1], len(work.shards) - job.starts[1]), strict=True):
        (job.work / split).mkdir(exist_ok=True)
        _remove_others(job.work / split, map(shard_name, range(len(plan.packs) or count)))
        entries = (ImageEntry(**entry) for part in work.each_fact() if split in part for entry in part[split]["packed"])
        write_manifest(job.work / split, entries, found.rejected[split], note=". ".join(plan.notes))
    if plan.packs:
        write_json(job.work / "images/packs.json", found.packs)
        _remove_others(job.work / "truth", (_truth_path(job, pack.index).name for pack in plan.packs))
        if (job.work / "truth").exists():
            if not any(record.masks.entities for record in iter_records(job.work / "truth")):
                raise SohesError("none of the held-out images has a mask to find, so nothing could be scored")
            shutil.rmtree(job.work / "eval/labels", ignore_errors=True)
            shutil.copytree(job.work / "truth", job.work / "eval/labels")
    else:
        _write_truth(job, params.pull.images_per_shard)
    for split, folder in _splits(root).items():
        publish_folder(job.work / split, folder)
    work.remove()
    _report(found, plan)
    unusable = {(image.file_name, image.reason) for split in SPLITS for image in found.rejected[split]}
    return {"images": found.packed["images"], "eval_images": found.packed["eval"], "rejected": len(unusable)}


def _notes_on_exif(found: Tally, job: Job) -> Iterator[str]:
    """What was done with annotated photographs that EXIF says to turn."""
    if sure := found.turned:
        yield f"{len(sure)} photographs were turned upright by their EXIF, as the size of their annotations asks for"
    if assumed := found.assumed:
        frame, other = ("upright", "false") if job.annotations_upright else ("stored", "true")
        yield (
            f"{len(assumed)} annotated photographs are to be turned by their EXIF, such as {min(assumed)}, and their "
            f"size does not tell how they were annotated: masks were taken to be drawn on {frame} pixels; if that is "
            f"wrong, set pull.annotations_upright: {other}"
        )


def _remove_others(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed worker or another plan has left. A folder that is not there has nothing."""
    kept = set(names)
    for path in folder.glob("*") if folder.exists() else ():
        if path.name not in kept and not path.is_dir():
            path.unlink()


def _check(found: Tally, pull: PullParams) -> None:
    """The allowed fraction is of all images: one bad photograph among a few held-out ones is no reason to stop."""
    everything = list(itertools.chain(*found.rejected.values()))
    check_rejected(found.packed.total(), everything, max_rejected_fraction=pull.max_rejected_fraction)
    key = pull.held_out_key
    for split, remedy in (("images", f"lower {key}"), ("eval", f"raise {key}, or set it to 0 to go without a score")):
        if found.packed[split] or found.rejected[split]:
            check_rejected(found.packed[split], found.rejected[split], max_rejected_fraction=1)
        elif split == "images" or pull.holds_out:
            what = "training" if split == "images" else "evaluation"
            raise SohesError(f"of {found.packed.total()} photographs none is left for {what}: {remedy}")


def _write_truth(job: Job, images_per_shard: int) -> None:
    """`eval/labels/`, where the source knows the truth, with each image's name and digest from the manifest."""
    store = ImageStore(job.work / "eval")
    records = cast(Source, job.source).truth(store.image_ids.tolist())
    if records is None or not len(store):
        return
    shutil.rmtree(job.work / "eval/labels", ignore_errors=True)
    entries = ((record, store.entry(record.image_id)) for record in records)
    as_packed = (replace(record, digest=entry.digest, file_name=entry.file_name) for record, entry in entries)
    for index, group in enumerate(iter(lambda: list(itertools.islice(as_packed, images_per_shard)), [])):
        write_shard(job.work / f"eval/labels/shard-{index:05d}.parquet", group)


def _report(found: Tally, plan: Plan) -> None:
    counts = f"{found.packed['images']} images for training, {found.packed['eval']} held out"
    left_out = sum(map(len, found.rejected.values()))
    if left_out:
        counts += f", {left_out} rejected (see rejected.jsonl beside them)"
    for sentence in (counts, *plan.notes):
        print(f"pull: {sentence}", file=sys.stderr)
