"""Stage `evaluate`: every phase's masks on the held-out images, scored in one table.

plan -> shards -> finish. A finished shard under `.sohes/evaluate/` is never predicted again while its model, its
images and its params are the same; `finish` moves all into `predictions/<phase>/` and writes `metrics/`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sohes import tracking
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, iter_records, write_shard
from sohes.errors import SohesError
from sohes.evaluate.phases import PHASES, UNTRAINED, depends_on, make_predictor
from sohes.evaluate.recall import Scores, evaluate_masks
from sohes.params import Params
from sohes.structures import ImageRecord
from sohes.work.files import digest_file, write_json
from sohes.work.pool import Shard, default_workers, plan_shards, report_images, run_shards


@dataclass(frozen=True)
class Job:
    """One phase's predictions: where they are kept and what they depend on."""

    phase: str
    folder: Path
    params: Params
    root: Path


def missing_shards(params: Params, root: Path) -> list[int]:
    """The shards that lack a phase's predictions."""
    jobs, shards = _prepare(params, root, (UNTRAINED, *PHASES))
    return [k for k in range(len(shards)) if not all(_shard_path(job, k).exists() for job in jobs)]


def _prepare(params: Params, root: Path, phases: tuple[str, ...]) -> tuple[list[Job], list[list[int]]]:
    store = ImageStore(root / "data/eval")
    if not len(store):
        raise SohesError(
            f"no evaluation images in {root / 'data/eval'}: raise pull.folder.eval_fraction and pull again"
        )
    jobs = [_job(phase, params, root) for phase in phases]
    return jobs, plan_shards(store.image_ids, params.evaluate.images_per_shard)


def run(params: Params, root: Path, *, shard: int | None = None, phase: str | None = None) -> None:
    """Predict what is missing, then score. With `shard`, predict that shard of every phase and stop.

    phase: that one alone, as ablations need it; neither the models of the others nor the untrained one are read.
    """
    jobs, shards = _prepare(params, root, (UNTRAINED, *PHASES) if phase is None else (phase,))
    if shard is not None and not 0 <= shard < len(shards):
        count = sum(map(len, shards))
        raise SohesError(f"--shard must lie in 0..{len(shards) - 1} for {count} evaluation images (got {shard})")
    for job in jobs:
        wanted = range(len(shards)) if shard is None else [shard]
        missing = [(k, shards[k]) for k in wanted if not _shard_path(job, k).exists()]
        # Phase 1 runs on the CPU, one image a worker; the network takes its images in batches, in this process.
        workers = default_workers() if job.phase == "explore" else 0
        run_shards(partial(_predict_shard, job), missing, workers=workers, description=f"predict {job.phase}")
    if shard is None:
        with tracking.stage_run("evaluate", params, root) as recorder:
            _finish(jobs, len(shards), root, recorder)


def _job(phase: str, params: Params, root: Path) -> Job:
    """Where a phase's shards lie: the folder's name is the digest of all that they depend on."""
    depends = {"images": digest_file(root / "data/eval/manifest.parquet"), **depends_on(phase, params, root)}
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return Job(phase, root / ".sohes/evaluate" / f"{phase}-{key}", params, root)


def _shard_path(job: Job, index: int) -> Path:
    return job.folder / f"shard-{index:05d}.parquet"


def _predict_shard(job: Job, shard: Shard) -> None:
    """Predict one shard of images and write it, the time it took beside it."""
    index, image_ids = shard
    store = ImageStore(job.root / "data/eval")
    predict = make_predictor(job.phase, job.params, job.root)
    records, started = [], time.perf_counter()
    for image_id, found in zip(image_ids, predict(store.read(i) for i in image_ids), strict=True):
        entry = store.entry(image_id)
        records.append(ImageRecord(image_id, entry.file_name, entry.digest, found))
        report_images()
    seconds = time.perf_counter() - started
    write_json(_shard_path(job, index).with_suffix(".json"), {"images": len(records), "seconds": seconds})
    write_shard(_shard_path(job, index), records)  # last: its presence says that the shard is done


def _finish(jobs: list[Job], shard_count: int, root: Path, recorder: tracking.Recorder) -> None:
    truth_folder = root / "data/eval/labels"
    truth = LabelStore(truth_folder) if truth_folder.exists() else None
    rows, details = {}, {}
    for job in jobs:
        published = root / "predictions" / job.phase
        _publish(job, shard_count, published)
        records = iter_records(published)
        scores = (
            evaluate_masks(iter_records(truth_folder), records, max_masks=job.params.evaluate.max_masks)
            if truth
            else None
        )
        rows[job.phase] = _row(job, scores, shard_count)
        details[job.phase] = scores.details() if scores else {}
        hierarchy = {name: v for name, v in details[job.phase].items() if name.startswith("ancestor_")}
        figures = {**rows[job.phase], **hierarchy}
        recorder.metrics({f"{job.phase}/{name}": v for name, v in figures.items() if isinstance(v, float | int)})
    if UNTRAINED in rows:
        write_json(root / "metrics/untrained.json", rows.pop(UNTRAINED))
    write_json(root / "metrics/evaluate.json", list(rows.values()))
    write_json(root / "metrics/evaluate_details.json", details)
    recorder.artifact(root / "metrics/evaluate.json")
    if jobs[-1].phase == "correct":
        _register(jobs[-1], rows["correct"], recorder)


def _register(job: Job, row: dict[str, object], recorder: tracking.Recorder) -> None:
    """The last phase's model, with its scores and the digests of what it was trained on and scored with."""
    path = job.root / f"models/{job.phase}.safetensors"
    trained_on = json.loads(path.with_suffix(".json").read_text()).get("digests", {})
    recorder.model(
        path,
        job.params,
        metrics={name: float(value) for name, value in row.items() if isinstance(value, float | int)},
        data={"eval": digest_file(job.root / "data/eval/manifest.parquet"), **trained_on},
    )


def _publish(job: Job, shard_count: int, published: Path) -> None:
    """Replace `predictions/<phase>/` by this run's shards."""
    shutil.rmtree(published, ignore_errors=True)
    published.mkdir(parents=True)
    for index in range(shard_count):
        shutil.copyfile(_shard_path(job, index), published / _shard_path(job, index).name)


def _row(job: Job, scores: Scores | None, shard_count: int) -> dict[str, object]:
    timings = [json.loads(_shard_path(job, k).with_suffix(".json").read_text()) for k in range(shard_count)]
    images = sum(t["images"] for t in timings)
    measured = scores.row() if scores else dict.fromkeys(("AR", "AR_S", "AR_M", "AR_L", "AP"))
    found = sum(len(record.masks) for record in iter_records(job.folder))
    return {
        "phase": job.phase,
        **measured,
        "masks_per_image": found / images,
        "seconds_per_image": sum(t["seconds"] for t in timings) / images,
        "images": images,
    }
