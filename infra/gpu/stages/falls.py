"""Whether phase 2 learns on the GPU as on the CPU: the loss of each step on a few scenes, from the same seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from infra.gpu.lab import ROOT, Lab, Rows, network
from infra.gpu.pace import run as train
from sohes.data.scenes.render import render_scene
from sohes.params import Params, load_params
from sohes.structures import Batch
from sohes.train.augment import Labelled
from sohes.train.dataset import targets_of
from sohes.train.instruct import Instruction
from sohes.train.loading import Loaded, Position, normalised

SIDE, SCENES, STEPS = 96, 4, 30


class Scenes:
    """A few scenes as they are, in turn."""

    def __init__(self) -> None:
        scenes = [render_scene(i, size=SIDE, seed=0) for i in range(SCENES)]
        self.shown = [Labelled(s.image_HW3, s.masks_NHW, s.parents_N) for s in scenes]

    def __getitem__(self, position: Position) -> Labelled:
        return self.shown[position[1] % SCENES]

    def collate(self, samples: Sequence[Labelled]) -> Loaded:
        images = normalised([s.image_HW3 for s in samples], (0.5,) * 3, (0.25,) * 3)
        return Loaded(Batch(images, tuple(targets_of(s) for s in samples)))


class Watched(Instruction):
    """Keeps the loss of every step."""

    def forward(self, batch, generator):
        losses = super().forward(batch, generator)
        self.curve = [*getattr(self, "curve", []), losses["loss"].detach()]
        return losses


def run(lab: Lab) -> Rows:
    """A row a device, float32, and one of both."""
    values = load_params(ROOT / "params.yaml")
    shape = {"image_size": SIDE, "num_queries": 84, "decoder_layers": 2}
    everywhere = {"num_points": 0}  # every cell: devices draw other points from the same seed
    params = values.model_copy(
        update={"model": values.model.model_copy(update=shape), "loss": values.loss.model_copy(update=everywhere)}
    )
    steps = 6 if lab.toy else STEPS
    curves = {device: _curve(params, torch.device(device), steps) for device in dict.fromkeys(("cpu", lab.device.type))}
    for device, curve in curves.items():
        yield {"what": device, "first": curve[0], "last": curve[-1], "curve": curve}
    cpu, other = (np.array(curve) for curve in (curves["cpu"], curves[lab.device.type]))
    falls = all(np.mean(curve[-3:]) < np.mean(curve[:3]) for curve in (cpu, other))
    yield {"what": "both", "falls": bool(falls), "largest_difference": round(float((abs(cpu - other) / cpu).max()), 6)}


def _curve(params: Params, device: torch.device, steps: int) -> list[float]:
    section = params.instruct.model_copy(
        update={"steps": steps, "workers": 0, "checkpoint_every": steps, "validate_every": 0}
    )
    learner = Watched(network(params, device), section, params.loss)
    train(learner, Scenes(), section, device)
    return [round(float(loss), 4) for loss in learner.curve]
