"""Stage `instruct`: phase 2, a segmenter from images, pseudo-labels and the backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from sohes import tracking
from sohes.evaluate.validation import validator
from sohes.model.build import build_network
from sohes.model.checkpoint import begin_from, first_vit
from sohes.model.released import start_of, vit_of_start
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
    with join_world() as world:
        digests = world.of_first(partial(input_digests, project, "backbone"))  # reads all labels
        torch.manual_seed(params.seed)
        network = build_network(first_vit(vit_of_start(section, root), project.model("backbone")), params.model)
        if (start := start_of(section, root)) is not None:
            taken = begin_from(network, start)
            digests["start"] = digest_file(start)
            if world.is_first:
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
