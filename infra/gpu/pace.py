"""How fast the training loop itself goes with one batch that lies ready on the host."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from infra.gpu.lab import Lab, Row, changed, forget, gigabytes, network
from sohes.model.footprint import training_footprint
from sohes.params import Params
from sohes.structures import MaskFactors
from sohes.tracking import Recorder
from sohes.train.loading import Loaded, Position
from sohes.train.loop import Learner, train
from sohes.train.world import World

PEAK_TFLOPS = 990  # bf16, dense, of an H100 and an H200 (SXM), as their data sheets say
FOREVER = 10**6  # steps


class Enough(Exception):
    """Ends a training that has been measured."""


class Repeated:
    """A training set that gives the same batch each step; raises Enough after `seconds` or `most` measured steps.

    warm: steps that do not count.  watch: warn of each wait of the host for the GPU in the measured steps.
    """

    def __init__(self, batch, lab: Lab, *, warm: int, seconds: float, most: int, watch: bool = False) -> None:
        self.batch, self.lab, self.watch = batch, lab, watch
        self.warm, self.seconds, self.most = warm, seconds, most
        self.calls, self.began, self.spent = 0, 0.0, 0.0

    @property
    def steps(self) -> int:
        """That were measured."""
        return self.calls - self.warm - 1

    def __getitem__(self, position: Position) -> None:
        return None

    def collate(self, samples: Sequence[None]) -> Loaded:
        self.calls += 1
        if self.steps == 0:
            self.lab.wait()
            if self.watch:
                torch.cuda.set_sync_debug_mode("warn")
            self.began = time.monotonic()
        elif self.steps > 0 and (self.steps >= self.most or time.monotonic() - self.began > self.seconds):
            if self.watch:
                torch.cuda.set_sync_debug_mode("default")
            self.lab.wait()
            self.spent = time.monotonic() - self.began
            raise Enough
        return Loaded(self.batch)


class NoState:
    """A training that is never continued."""

    def load(self) -> None:
        return None

    def save(self, state: object) -> None:
        pass


def run(learner: Learner, dataset, section, device: torch.device, *, seed: int = 0) -> None:
    """The training loop until the data set has had enough, or to the section's end."""
    world = World(0, 1, device)
    options = {"title": "check", "seed": seed, "world": world, "state": NoState(), "recorder": Recorder()}
    with contextlib.suppress(Enough):
        train(learner, dataset, section, **options)


def alone(section, images: int, **values: object):
    """A section of the params for measuring: undivided batches of `images`, and nothing beside the steps."""
    endless = {"steps": FOREVER, "checkpoint_every": FOREVER, "validate_every": 0, "workers": 0, "accumulate": 1}
    return changed(section, batch_size=images, **endless, **values)


def pace(learner: Learner, batch, section, lab: Lab, *, seconds: float, warm: int = 3) -> Row:
    """Steps and images a second, and the peak of the GPU's memory."""
    forget(lab)
    dataset = Repeated(batch, lab, warm=1 if lab.toy else warm, seconds=seconds, most=1 if lab.toy else 50)
    run(learner, dataset, section, lab.device)
    per_second = dataset.steps / dataset.spent
    return {
        "images_per_step": section.batch_size,
        "steps_per_second": round(per_second, 3),
        "images_per_second": round(per_second * section.batch_size * learner.images_per_sample, 2),
        "peak_gb": gigabytes(lab),
        "steps": dataset.steps,
    }


def host_waits(learner: Learner, batch, section, lab: Lab, *, most: int = 2) -> Row:
    """How often the host waits for the GPU in a step, and where most."""
    dataset = Repeated(batch, lab, warm=2, seconds=30, most=most, watch=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(learner, dataset, section, lab.device)
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    places = Counter("/".join(Path(w.filename).parts[-2:]) + f":{w.lineno}" for w in waits)
    return {
        "host_waits_per_step": round(len(waits) / most, 1),
        "places": {place: round(count / most, 1) for place, count in places.most_common(12)},
    }


def tflop_per_image(params: Params) -> float:
    """Of a forward and backward pass of the network, up to the factors of its masks; counted without values."""
    with torch.device("meta"):
        model = network(params, torch.device("meta"), recompute_blocks=False)
        images = torch.empty(1, 3, params.model.image_size, params.model.image_size)
        with FlopCounterMode(display=False) as counted:
            output = model.train()(images)
            parts = [output.ancestor_logits_BQQ.sum()]
            for layer in (output, *output.auxiliary):
                assert isinstance(layer.masks, MaskFactors)
                parts += [part.sum() for part in (layer.class_logits_BQ2, *layer.masks.parts())]
            sum(parts).backward()
    return counted.get_total_flops() / 1e12


def fitting(params: Params, section, lab: Lab, *, share: float = 0.75) -> int:
    """The largest power of two of images at a time that the GPU should hold."""
    if lab.toy:
        return 2
    one = training_footprint(params, alone(section, 1))
    room = share * torch.cuda.mem_get_info()[0] - one.state
    return 2 ** min(6, max(0, int(room // one.activations).bit_length() - 1))
