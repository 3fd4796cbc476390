"""Stage `correct`: phase 3, the segmenter of phase 2 corrected by its own teacher."""

from __future__ import annotations

from pathlib import Path

from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint
from sohes.params import Params
from sohes.stages.training import input_digests, open_dataset, run_training, validator
from sohes.train.correct import correct
from sohes.train.dataset import PairDataset
from sohes.train.world import join_world


def run(params: Params, root: Path) -> None:
    """Train and write the teacher to `models/correct.safetensors`, or continue where the same command was stopped."""
    section = params.correct
    digests = input_digests(root, "instruct")
    network, card = load_checkpoint(root / "models/instruct.safetensors")
    if network.params != params.model:
        raise SohesError(
            "models/instruct.safetensors has another architecture than `model` in the params: "
            "run `sohes instruct` again"
        )
    dataset = open_dataset(PairDataset, params, section, network, root)
    names = {"network": "student", "average": "teacher"}
    validate = validator(params, root, names) if section.validate_every else None
    with join_world() as world:
        run_training(
            "correct",
            params,
            root,
            depends={
                "seed": params.seed,
                "params": params.model_dump(mode="json", include={"model", "loss", "correct"}),
                "digests": {**digests, "backbone": card["digests"]["backbone"]},
            },
            teach=lambda state, recorder: correct(
                network,
                dataset,
                section,
                params.loss,
                seed=params.seed,
                world=world,
                state=state,
                recorder=recorder,
                validate=validate,
            ),
            world=world,
            weights=f"the teacher: moving average of the student's weights, momentum {section.teacher_momentum}",
        )
