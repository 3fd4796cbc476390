"""Stage `correct`: phase 3, the segmenter of phase 2 corrected by its own teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sohes import tracking
from sohes.errors import SohesError
from sohes.evaluate.validation import validator
from sohes.model.build import build_network
from sohes.model.checkpoint import load_checkpoint
from sohes.params import Params
from sohes.project import Project
from sohes.train.correct import Correction
from sohes.train.dataset import PairDataset, input_digests
from sohes.train.phase import train_phase
from sohes.train.world import join_world
from sohes.work.origin import Check, unchecked


def run(params: Params, root: Path, *, unchanged: Check = unchecked) -> None:
    """Train and write the teacher to `models/correct.safetensors`, or continue where the same command was stopped.

    unchanged: see `Origin`.
    """
    project, section = Project(root), params.correct
    with join_world() as world:
        digests = world.of_first(partial(input_digests, project, "instruct"))  # reads all labels
        network, card = load_checkpoint(project.model("instruct"))
        if network.params.of_weights != params.model.of_weights:
            raise SohesError(
                f"{project.model('instruct')} has another architecture than `model` in the params: "
                "run `sohes instruct` again"
            )
        if network.params != params.model:
            trained, network = network, build_network(network.backbone, params.model)
            network.load_state_dict(trained.state_dict())
        train_phase(
            "correct",
            Correction(network, section, params.loss),
            PairDataset,
            params,
            project,
            world,
            digests={**digests, **{k: v for k, v in (card.get("digests") or {}).items() if k in ("backbone", "start")}},
            weights=f"the teacher: moving average of the student's weights, momentum {section.teacher_momentum}",
            unchanged=unchanged,
            open_run=partial(tracking.stage_run, "correct", params, root),
            validator=partial(validator, project, params.evaluate, {"network": "student", "average": "teacher"}),
        )
