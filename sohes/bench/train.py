"""`sohes bench train`: what one step of phase 2 costs for each image, on synthetic labels."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sohes.backbone.precision import half_precision, multiplies_in_bfloat16
from sohes.bench.cost import peak_gb
from sohes.bench.own_process import in_own_process
from sohes.errors import SohesError
from sohes.model.footprint import build
from sohes.params import InstructParams, Params, load_params_anywhere
from sohes.project import Project
from sohes.structures import Batch, Targets
from sohes.train.instruct import Instruction
from sohes.train.loop import clip, move_average

PARAMS = Project(Path()).params
PARTS = ("forward", "loss", "backward", "optimizer")
WARM_UP = 2  # steps that compile loops, choose kernels and make the optimizer's state


def bench_train(params: Path = PARAMS, images: int = 0, steps: int = 3) -> dict[str, object]:
    """Steps of phase 2 as the params say, with random weights, on images of noise with `max_targets` discs each.

    images: at once; 0: a part of the params' batch. Keys name, device, precision, images, cpu_seconds and seconds (of
    an image and step; one thread on a CPU), shares of the seconds for forward, loss (with the matching), backward and
    optimizer (with clipping and the average), peak_mb (of the process or the GPU); on a GPU also images_per_second and
    host_waits, how often a step waits for it. SohesError for another head than mask2former, which has no loss apart.
    """
    values = load_params_anywhere(params)
    if values.model.head != "mask2former":
        raise SohesError(f"sohes bench train measures model.head mask2former (got {values.model.head})")
    phase = values.instruct
    return in_own_process(measure, values, images or phase.batch_size // phase.accumulate, steps)


def measure(params: Params, images: int, steps: int) -> dict[str, object]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    phase = params.instruct
    torch.manual_seed(params.seed)
    learner = Instruction(build(params), phase, params.loss).to(device)
    learner.train()
    optimizer = learner.optimizer(phase)
    batch = example(images, size=params.model.image_size, targets=phase.max_targets).to(device)
    generator = torch.Generator(device).manual_seed(params.seed)
    for _ in range(WARM_UP):
        _step(learner, optimizer, batch, phase, generator)
    parts: Counter[str] = Counter()
    wall, cpu = _now(device), time.process_time()
    for _ in range(steps):
        parts.update(_step(learner, optimizer, batch, phase, generator, timed=True))
    seconds, cpu_seconds = _now(device) - wall, time.process_time() - cpu
    count = steps * images
    result: dict[str, object] = {
        "name": "train",
        "device": device.type,
        "precision": "bfloat16" if phase.optim.amp and multiplies_in_bfloat16(device) else "float32",
        "images": images,
        "cpu_seconds": round(cpu_seconds / count, 4),
        "seconds": round(seconds / count, 4),
        "shares": {name: round(parts[name] / seconds, 3) for name in PARTS},
        "peak_mb": round(1000 * peak_gb(), 1),
    }
    if device.type == "cuda":
        wall = _now(device)
        for _ in range(steps):
            _step(learner, optimizer, batch, phase, generator)
        result["images_per_second"] = round(count / (_now(device) - wall), 2)
        result["peak_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
        with _counted_waits() as waits:
            _step(learner, optimizer, batch, phase, generator)
        result["host_waits"] = len(waits)
    return result


def _step(
    learner: Instruction,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    phase: InstructParams,
    generator: torch.Generator,
    *,
    timed: bool = False,
) -> dict[str, float]:
    """As `sohes.train.loop` does it; the seconds of each part, for which a GPU is waited for only if `timed`."""
    device = batch.images_B3HW.device
    marks = [_now(device, wait=timed)]
    hook = learner.network.register_forward_hook(lambda *_: marks.append(_now(device, wait=timed)))
    learner.zero_grad(set_to_none=True)
    with half_precision(device, phase.optim.amp):
        losses = learner(batch, generator)
    hook.remove()
    marks.append(_now(device, wait=timed))
    losses["loss"].backward()
    marks.append(_now(device, wait=timed))
    norm = clip(learner.network, phase.optim.clip_norm)
    torch.stack([*(value.detach() for value in losses.values()), norm]).tolist()
    optimizer.step()
    move_average(learner, 0)
    marks.append(_now(device, wait=timed))
    return {name: after - before for name, before, after in zip(PARTS, marks[:-1], marks[1:], strict=True)}


def _now(device: torch.device, *, wait: bool = True) -> float:
    if wait and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def _counted_waits() -> Iterator[list[warnings.WarningMessage]]:
    """One entry for each time that the process waits for the GPU, as far as torch notices."""
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield waits
        torch.cuda.set_sync_debug_mode("default")


def example(images: int, *, size: int, targets: int) -> Batch:
    """Images of noise, normalised, and their targets: discs of all sizes, as if each lay in the one before it."""
    draw = torch.Generator().manual_seed(0)
    line = torch.arange(size) + 0.5
    ancestors_TT = torch.ones(targets, targets).triu(1).bool()
    labels = []
    for _ in range(images):
        centre_2T11 = torch.rand(2, targets, 1, 1, generator=draw) * size
        radius_T11 = (torch.rand(targets, 1, 1, generator=draw) * 0.2 + 0.02) * size
        away_THW = (line[:, None] - centre_2T11[0]) ** 2 + (line[None] - centre_2T11[1]) ** 2
        labels.append(Targets(away_THW < radius_T11**2, ancestors_TT))
    return Batch(torch.randn(images, 3, size, size, generator=draw), tuple(labels))
