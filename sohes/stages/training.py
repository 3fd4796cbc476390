"""What the stages `instruct` and `correct` share: their inputs, where they continue, what they write."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sohes import tracking
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, iter_records
from sohes.errors import SohesError
from sohes.model.build import Network
from sohes.model.checkpoint import save_checkpoint
from sohes.params import CorrectParams, InstructParams, Params
from sohes.structures import ImageRecord
from sohes.train.dataset import LabelDataset
from sohes.train.loop import Learner, Recorder
from sohes.train.state import ResumableState, fingerprint
from sohes.train.world import World
from sohes.work.files import digest_file, write_json

Dataset = TypeVar("Dataset", bound=LabelDataset)
Teach = Callable[[ResumableState, Recorder], tuple[Network, list[dict[str, float]]]]


def require(path: Path, what: str, stage: str) -> Path:
    """The path; SohesError that names the stage to run first if it does not exist."""
    if not path.exists():
        raise SohesError(f"no {what} at {path}: run `sohes {stage}` first")
    return path


def input_digests(root: Path, start: str) -> dict[str, str]:
    """Digests of what training reads: images, pseudo-labels, and `models/<start>.safetensors`."""
    images = require(root / "data/images/manifest.parquet", "images", "pull")
    labels = require(root / "data/pseudo_labels", "pseudo-labels", "explore")
    model = require(root / f"models/{start}.safetensors", "backbone" if start == "backbone" else "model", start)
    shards = hashlib.sha256()
    for shard in sorted(labels.glob("*.parquet")):
        shards.update(f"{shard.name} {digest_file(shard)}\n".encode())
    return {"images": digest_file(images), "labels": f"sha256:{shards.hexdigest()}", start: digest_file(model)}


def open_dataset(
    kind: type[Dataset], params: Params, section: InstructParams | CorrectParams, network: Network, root: Path
) -> Dataset:
    """The labelled training images as the phase wants them."""
    return kind(
        ImageStore(root / "data/images"),
        LabelStore(root / "data/pseudo_labels"),
        image_size=network.params.image_size,
        max_targets=section.max_targets,
        augment=section.augment,
        normalisation=(network.backbone.mean, network.backbone.std),
        batch_size=section.batch_size,
        seed=params.seed,
    )


def run_training(
    stage: str, params: Params, root: Path, *, depends: Mapping[str, Any], teach: Teach, world: World, weights: str
) -> None:
    """Train, or continue what was stopped; writes `models/<stage>.safetensors`, its card, and `metrics/<stage>.json`.

    depends: all that the result depends on; a saved state of anything else is discarded. weights: what the file holds,
    in words, for the card.
    """
    state = ResumableState(root / ".sohes" / stage, fingerprint(depends), may_write=world.is_first)
    with tracking.stage_run(stage, params, root, resume_id=state.run_id) as recorder:
        state.begin(recorder.run_id)
        kept, history = teach(state, recorder)
        if world.is_first:
            path = root / f"models/{stage}.safetensors"
            save_checkpoint(path, kept, {**depends, "phase": stage, "weights": weights, "metrics": history[-1]})
            write_json(root / f"metrics/{stage}.json", history)
            recorder.artifact(path.with_suffix(".json"))
            recorder.artifact(root / f"metrics/{stage}.json")
            state.remove()  # last: until here a kill continues at the end
        world.wait()


def validator(params: Params, root: Path, names: Mapping[str, str]) -> Callable[[Learner], dict[str, float]] | None:
    """AR on the held-out images of the learner's networks, by `{attribute: name of the metric}`.

    None, with a word about it, if the evaluation images have no annotations.
    """
    labels = root / "data/eval/labels"
    if not labels.exists():
        print(f"no validation while training: there are no annotations at {labels}", file=sys.stderr)
        return None
    from sohes.evaluate.predict import segment_images
    from sohes.evaluate.recall import evaluate_masks

    store = ImageStore(root / "data/eval")

    def validate(learner: Learner) -> dict[str, float]:
        values: dict[str, float] = {}
        for attribute, name in names.items():
            images = (store.read(image_id) for image_id in store.image_ids)
            found = segment_images(getattr(learner, attribute), images, params.evaluate, source=name)
            records = [
                ImageRecord(i, store.entry(i).file_name, store.entry(i).digest, one)
                for i, one in zip(store.image_ids, found, strict=True)
            ]
            scores = evaluate_masks(iter_records(labels), records, max_masks=params.evaluate.max_masks)
            if scores.AR is not None:
                values[f"{name}/AR"] = scores.AR
        return values

    return validate
