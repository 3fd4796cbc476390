"""A phase that trains: from its learner and its data to `models/<stage>.safetensors` with its card and history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sohes.model.build import Network
from sohes.model.checkpoint import save_checkpoint
from sohes.params import Params
from sohes.params.pull import NO_PHOTOGRAPHS
from sohes.pipeline import STAGES
from sohes.project import Project
from sohes.train.dataset import LabelDataset, open_dataset
from sohes.train.loop import Learner, Validate, train
from sohes.train.state import OpenRun, resumable
from sohes.train.world import World
from sohes.work.files import write_json
from sohes.work.identity import code_digest
from sohes.work.origin import Check


def train_phase(
    stage: str,
    learner: Learner[Network],
    kind: type[LabelDataset],
    params: Params,
    project: Project,
    world: World,
    *,
    digests: Mapping[str, str],
    weights: str,
    unchanged: Check,
    open_run: OpenRun,
    validator: Callable[[World], Validate | None],
) -> None:
    """Train on the project's labelled images, or continue where the same command was stopped; write the result.

    kind: of the data set. digests: of the inputs. weights: what the file holds, in words, for the card.
    unchanged: called before anything is written; see `Origin`.
    """
    section = getattr(params, stage)
    depends: dict[str, Any] = {
        "seed": params.seed,
        "params": params.model_dump(mode="json", include=set(STAGES[stage].sections)),
        "digests": dict(digests),
    }
    network = learner.network
    dataset = open_dataset(
        kind,
        project,
        section,
        image_size=network.params.image_size,
        normalisation=(network.backbone.mean, network.backbone.std),
        seed=params.seed,
    )
    validate = validator(world) if section.validate_every else None
    code = code_digest("sohes.train.phase", type(learner).__module__)
    with resumable(project.state(stage), {**depends, "code": code}, world, open_run) as (state, run):
        for name, folder in (("images", project.images), ("labels", project.pseudo_labels)):
            run.dataset(folder.relative_to(project.root), digests[name], "training")
        history = train(
            learner,
            dataset,
            section,
            title=stage,
            seed=params.seed,
            world=world,
            state=state,
            recorder=run,
            validate=validate,
        )
        if world.is_first:
            unchanged()
            card = {**depends, "phase": stage, "weights": weights, "metrics": history[-1]}
            card["evaluate"] = params.evaluate.model_dump(mode="json")  # for whoever uses it outside of the project
            if params.pull.source == "scenes":  # `sohes segment` heeds it
                card["limits"] = f"it has learned from drawn scenes and is {NO_PHOTOGRAPHS}"
            save_checkpoint(project.model(stage), learner.kept, card)
            write_json(project.metrics(stage), history)
            run.artifact(project.card(stage))
            run.artifact(project.metrics(stage))
