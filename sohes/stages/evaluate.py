"""Stage `evaluate`: every phase's masks on the held-out images, scored in one table."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sohes import tracking
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import iter_records
from sohes.errors import SohesError
from sohes.evaluate.figures import UNTRAINED, write_figures
from sohes.evaluate.phases import Predicted, depends_on, make_predictor, predict_images, write_predicted
from sohes.evaluate.recall import Scores, evaluate_masks
from sohes.evaluate.tables import by_phase, phase_markdown
from sohes.explore.regions import THRESHOLDS, region_counts
from sohes.params import Params
from sohes.pipeline import PHASES
from sohes.project import Project, read_json
from sohes.work.files import digest_file, write_json
from sohes.work.identity import code_digest, identity
from sohes.work.origin import Check, unchecked
from sohes.work.pool import default_workers, plan_shards
from sohes.work.publish import new_folder, require_replaceable
from sohes.work.sharded import ShardedWork

Counted = tuple[Predicted, list[np.ndarray]]  # with the regions at each of THRESHOLDS, an array an image


def missing_shards(params: Params, root: Path) -> list[int]:
    """The shards that lack a phase's predictions."""
    works = _plan(params, root, (UNTRAINED, *PHASES))
    return sorted({index for work in works.values() for index in work.missing()})


def _plan(params: Params, root: Path, phases: Sequence[str]) -> dict[str, ShardedWork]:
    """Each phase's shards."""
    project = Project(root)
    store = ImageStore(project.held_out)
    if not len(store):
        raise SohesError(f"no evaluation images in {project.held_out}: raise {params.pull.held_out_key} and pull again")
    shards = plan_shards(store.image_ids, params.evaluate.images_per_shard)
    images = digest_file(project.held_out_manifest), code_digest("sohes.data.store.images")

    def folder(phase: str) -> Path:
        return project.state("evaluate") / f"{phase}-{identity([images, depends_on(phase, params, root)])}"

    return {phase: ShardedWork(folder(phase), shards) for phase in phases}


def run(
    params: Params, root: Path, *, shards: range | None = None, phase: str | None = None, unchanged: Check = unchecked
) -> None:
    """Predict what is missing, then score. With `shards`, predict those of every phase and stop.

    phase: that one alone, as ablations need it; neither the models of the others nor the untrained one are read.
    unchanged: see `Origin`; a model is registered only if it holds.
    """
    works = _plan(params, root, (UNTRAINED, *PHASES) if phase is None else (phase,))
    for name in works:
        require_replaceable(Project(root).predictions(name))
    if shards is not None:
        _predict(works, params, root, shards)
        return
    _check_truth(Project(root))
    with tracking.stage_run("evaluate", params, root) as recorder:
        _predict(works, params, root)
        unchanged()
        _finish(works, params, root, recorder)


def _check_truth(project: Project) -> None:
    """Before hours of predicting: a word if nothing can be scored, SohesError if something should be."""
    if not project.truth.exists():
        print("evaluate: there are no annotations, so the masks are predicted but not scored", file=sys.stderr)
    elif not any(record.masks.entities for record in iter_records(project.truth)):
        raise SohesError(
            f"the ground truth in {project.truth} has no mask, so nothing can be scored: pull again with annotations "
            "of the held-out images, or without any"
        )


def _predict(works: dict[str, ShardedWork], params: Params, root: Path, shards: range | None = None) -> None:
    for phase, work in works.items():
        left = work.left(shards, of=f"{sum(map(len, work.shards))} evaluation images")
        # Phase 1 runs on the CPU, one image a worker; the network takes its images in batches, in this process.
        workers = default_workers() if phase == "explore" else 1
        compute = partial(_compute, phase, params, root)
        work.spread(compute, _write, left, workers=workers, description=f"predict {phase}")


def _compute(phase: str, params: Params, root: Path, image_ids: Sequence[int]) -> Counted:
    store = ImageStore(Project(root).held_out)
    entries = [store.entry(image_id) for image_id in image_ids]
    named = [(entry.image_id, entry.file_name, entry.digest) for entry in entries]
    counts: list[np.ndarray] = []
    predict = make_predictor(phase, params, root, on_tree=lambda tree: counts.append(region_counts(tree)))
    return predict_images(named, map(store.read, image_ids), predict), counts


def _write(path: Path, pieces: Sequence[Counted]) -> dict[str, Any]:
    facts = write_predicted(path, [predicted for predicted, _ in pieces])
    counts = [count for _, piece in pieces for count in piece]
    return facts | {"trees": len(counts), "regions": np.sum(counts, 0).tolist()}


# ---------------------------------------------------------------- score


def _finish(works: dict[str, ShardedWork], params: Params, root: Path, recorder: tracking.Recorder) -> None:
    """Publish and score each phase's masks, write `metrics/`, and register the model of the last phase."""
    project = Project(root)
    rows, details = {}, {}
    for phase, work in works.items():
        published = project.predictions(phase)
        with new_folder(published) as folder:
            for index in range(len(work.shards)):
                shutil.copy(work.path(index, ".parquet"), folder)
        scores = None
        if project.truth.exists():
            records = iter_records(project.truth), iter_records(published)
            scores = evaluate_masks(*records, max_masks=params.evaluate.max_masks)
        rows[phase] = {**_row(scores, work.facts()), "max_masks": params.evaluate.max_masks}
        details[phase] = scores.details() if scores else {}
        hierarchy = {name: v for name, v in details[phase].items() if name.startswith("ancestor_")}
        recorder.metrics(by_phase({phase: {**rows[phase], **hierarchy}}))
    if UNTRAINED in rows:
        del rows[UNTRAINED]
        write_json(project.metrics("regions"), _regions(works["explore"].facts()))
    write_figures(project, rows, details)
    recorder.artifact(project.metrics("evaluate"))
    held_out = project.held_out.relative_to(root)
    recorder.dataset(held_out, digest_file(project.held_out_manifest), "evaluation")
    recorder.overall(by_phase(rows), phase_markdown(rows))
    if "correct" in rows:
        _register(rows["correct"], params, project, recorder)
    for work in works.values():
        work.remove()


def _is_figure(value: object) -> TypeGuard[float]:
    return isinstance(value, float | int)


def _regions(facts: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Regions an image by merging threshold, the mean over the images that phase 1 has merged (paper figure 8)."""
    images = sum(part["trees"] for part in facts)
    means = np.sum([part["regions"] for part in facts], 0) / images if images else np.zeros(0)
    return {"thresholds": THRESHOLDS, "regions_per_image": means.tolist(), "images": images}


def _row(scores: Scores | None, facts: Sequence[dict[str, Any]]) -> dict[str, object]:
    images = sum(part["images"] for part in facts)
    measured = scores.row() if scores else dict.fromkeys(("AR", "AR_S", "AR_M", "AR_L", "AP"))
    return {
        **measured,
        "masks_per_image": sum(part["masks"] for part in facts) / images,
        "seconds_per_image": sum(part["seconds"] for part in facts) / images,
        "images": images,
    }


def _register(row: dict[str, object], params: Params, project: Project, recorder: tracking.Recorder) -> None:
    """The last phase's model, with its scores and the digests of what it was trained on and scored with."""
    trained_on = read_json(project.card("correct"), "run `sohes correct` again").get("digests", {})
    recorder.model(
        project.model("correct"),
        params,
        metrics={name: float(value) for name, value in row.items() if _is_figure(value)},
        data={"eval": digest_file(project.held_out_manifest), **trained_on},
    )
