"""Stage `instruct`: phase 2, a segmenter from images, pseudo-labels and the backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from sohes import tracking
from sohes.backbone.vit import load_backbone
from sohes.evaluate.validation import validator
from sohes.model.build import build_network
from sohes.model.checkpoint import backbone_like, begin_from
from sohes.model.released import start_of
from sohes.params import Params
from sohes.project import Project
from sohes.train.dataset import LabelDataset, input_digests
from sohes.train.instruct import Instruction
from sohes.train.phase import train_phase
from sohes.train.world import join_world
from sohes.work.files import digest_file
from sohes.work.origin import Check, unchecked


def run(params: Params, root: Path, *, unchanged: Check = unchecked) -> None:
    """Train and write `models/instruct.safetensors`, or continue where the same command was stopped.

    unchanged: see `Origin`.
    """
    project, section = Project(root), params.instruct
    digests = input_digests(project, "backbone")
    torch.manual_seed(params.seed)
    start = start_of(section)
    if start is not None and section.backbone_of_start:
        backbone = backbone_like(start)
    else:
        backbone = load_backbone(project.model("backbone"))
    network = build_network(backbone, params.model)
    if start is not None:
        taken = begin_from(network, start)
        digests["start"] = digest_file(start)
    with join_world() as world:
        if start is not None and world.is_first:
            print(f"instruct: {taken:.0%} of the weights begin as those of {start}", flush=True)
        train_phase(
            "instruct",
            Instruction(network, section, params.loss),
            LabelDataset,
            params,
            project,
            world,
            digests=digests,
            weights=f"moving average of the weights, momentum {section.ema}" if section.ema else "the last step's",
            unchanged=unchanged,
            open_run=partial(tracking.stage_run, "instruct", params, root),
            validator=partial(validator, project, params.evaluate, {"kept": "validation"}),
        )
