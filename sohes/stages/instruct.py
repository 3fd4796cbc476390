"""Stage `instruct`: phase 2, a segmenter from images, pseudo-labels and the backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from sohes.backbone.vit import load_backbone
from sohes.model.build import build_network
from sohes.params import Params
from sohes.stages.training import input_digests, open_dataset, run_training, validator
from sohes.train.dataset import LabelDataset
from sohes.train.instruct import instruct
from sohes.train.world import join_world


def run(params: Params, root: Path) -> None:
    """Train and write `models/instruct.safetensors`, or continue where the same command was stopped."""
    section = params.instruct
    digests = input_digests(root, "backbone")
    torch.manual_seed(params.seed)
    network = build_network(load_backbone(root / "models/backbone.safetensors"), params.model)
    dataset = open_dataset(LabelDataset, params, section, network, root)
    validate = validator(params, root, {"kept": "validation"}) if section.validate_every else None
    with join_world() as world:
        run_training(
            "instruct",
            params,
            root,
            depends={
                "seed": params.seed,
                "params": params.model_dump(mode="json", include={"model", "loss", "instruct"}),
                "digests": digests,
            },
            teach=lambda state, recorder: instruct(
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
            weights=f"moving average of the weights, momentum {section.ema}" if section.ema else "the last step's",
        )
