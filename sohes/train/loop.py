"""The training loop of every network here: accumulate, clip, step, average, record, validate, save, resume.

Every step draws its samples from (stage, seed, step) alone, and its random numbers from these and the process's rank:
a run that was stopped continues as if nothing had happened, to the bit on a CPU, with as many processes as before.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sohes.backbone.precision import half_precision
from sohes.errors import SohesError
from sohes.params import CorrectParams, DinoParams, DistillParams, DownstreamParams, InstructParams
from sohes.train.loading import TrainingSet, load, positions, stage_seed
from sohes.train.optim import make_optimizer, rate_factor, set_rate
from sohes.train.progress import Steps
from sohes.train.state import ResumableState
from sohes.train.stopping import asked_to_stop, exit_status
from sohes.train.world import World
from sohes.work.memory import peak_bytes

LOG_EVERY = 10  # steps between records, which are means over them
_STEP_SEED = 3  # apart from the data set's random streams
Schedule: TypeAlias = DinoParams | DistillParams | InstructParams | CorrectParams | DownstreamParams
N = TypeVar("N", bound=nn.Module)


class Recorder(Protocol):
    """Where figures go: `sohes.tracking.Recorder`, which this layer must not import."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...


class Learner(nn.Module, Generic[N]):
    """What is trained and how: a phase gives the losses of a batch.

    network: learns by gradient.  average: the moving average of its weights, which never does; None without one.
    Weights that do not learn, such as a frozen backbone's, are the same tensors in both.
    """

    images_per_sample = 1
    network: N
    average: N | None

    def __init__(self, network: N, *, averaged: bool, frozen: bool = False) -> None:
        """frozen: the network's part `backbone`, a `sohes.backbone.vit.Backbone`, does not learn."""
        super().__init__()
        if frozen:
            network.backbone.freeze()  # type: ignore[union-attr,operator]
        self.network = network
        shared = {id(p): p for p in network.parameters() if not p.requires_grad}
        self.average = copy.deepcopy(network, shared).requires_grad_(False) if averaged else None

    @property
    def kept(self) -> N:
        """The network whose weights are the result."""
        return self.network if self.average is None else self.average

    def optimizer(self, params: Any) -> torch.optim.Optimizer:
        """Adan, with a rate of its own for the network's part `backbone`."""
        return make_optimizer(self.network, self.network.backbone, params.optim)  # type: ignore[arg-type]

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, params: Schedule) -> None:
        """The learning rate of `step`: a warm-up and a cosine."""
        factor = rate_factor(step, steps=params.steps, warmup_steps=params.optim.warmup_steps)
        set_rate(optimizer, factor)

    def momentum(self, step: int) -> float:
        """Of the average after `step`."""
        raise NotImplementedError

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`, normalised as its phase does it, and whatever else is worth recording.

        With `accumulate` the batch is one part of a step, and the step's loss the mean over its parts. Phases 2 and 3
        divide by the number of a part's masks, so parts with few masks count as much as parts with many: that is not
        quite the loss of one large batch.
        """
        raise NotImplementedError

    def after_backward(self, step: int) -> None:
        """Called between a step's gradients and their clipping."""

    def remedy(self, title: str) -> str:
        """What to do about a loss that is not finite."""
        return f"lower {title}.optim.learning_rate, or set {title}.optim.amp to false"

    def train(self, mode: bool = True) -> Learner[N]:
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self


Validate: TypeAlias = Callable[[Learner], dict[str, float]]


def train(
    learner: Learner,
    dataset: TrainingSet,
    params: Schedule,
    *,
    title: str,
    seed: int,
    world: World,
    state: ResumableState,
    recorder: Recorder,
    validate: Validate | None = None,
) -> list[dict[str, float]]:
    """Train the learner for `params.steps` steps; the history of what was recorded, a row each LOG_EVERY steps.

    title: the stage's name; its steps draw other random numbers than those of another stage with the same seed.
    Continues from `state` if it holds one. validate: called in every process of the world. SohesError for a loss that
    is not finite, and if the processes would begin at different steps; SystemExit(75) after SIGTERM or SIGUSR1 (130
    after Ctrl-C), with the state saved: the same command continues.
    """
    learner.to(world.device).train()
    seed_of_steps = stage_seed(seed, title)
    optimizer = learner.optimizer(params)
    start, meter = _resume(learner, optimizer, state, world)
    if params.compile:
        learner.network.compile()  # in place: the names of the weights stay
    parallel = _in_parallel(learner) if world.size > 1 else learner
    loaded = load(
        dataset,
        positions(
            start=start,
            steps=params.steps,
            batch_size=params.batch_size,
            accumulate=params.accumulate,
            rank=world.rank,
            world_size=world.size,
        ),
        workers=params.workers,
        pinned=world.device.type == "cuda",
    )
    images_per_step = params.batch_size * learner.images_per_sample
    shown = Steps(title, start=start, steps=params.steps, images_per_step=images_per_step, shown=world.is_first)

    def save(done: int) -> None:
        state.save(
            {"step": done, "learner": learner.state_dict(), "optimizer": optimizer.state_dict(), **meter.state_dict()}
        )
        world.wait()  # a process that left now would make torchrun end the others before the file is whole

    with asked_to_stop() as asked, shown(), closing(loaded) as parts:
        for step in range(start, params.steps):
            learner.set_rate(optimizer, step, params)
            losses, skipped = _gradients(parallel, parts, params, _generator(seed_of_steps, step, world), world.device)
            learner.after_backward(step)
            for sentence in skipped:  # every process names its own
                shown.say(f"{title}: passed over {sentence}")
            told: dict[str, Tensor | float] = {
                **losses,
                "gradient_norm": clip(learner.network, params.optim.clip_norm),
                "skipped_images": len(skipped) * world.size,  # so that the mean over processes is their sum
                "asked_to_stop": asked(),
            }
            values = dict(zip(told, world.mean(_stacked(told, world)).tolist(), strict=True))  # a GPU waits here
            if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
                raise SohesError(_not_finite(title, step, values, learner.remedy(title)))
            optimizer.step()
            move_average(learner, step)
            stop = values.pop("asked_to_stop") > 0
            meter.add(values)
            done = step + 1
            shown.show(done, values["loss"])
            if done % LOG_EVERY == 0 or done == params.steps:
                row = meter.flush(done)
                recorder.metrics({**row, **_machine(meter.seconds_per_step(), images_per_step, world)}, step=done)
            if validate and params.validate_every and done % params.validate_every == 0:
                with meter.paused():
                    recorder.metrics(validate(learner), step=done)
                learner.train()
            if stop or done % params.checkpoint_every == 0:
                with meter.paused():
                    save(done)
            if stop and done < params.steps:
                if world.is_first:
                    done_of = f"after step {done} of {params.steps}"
                    shown.say(f"{title}: stopped on request {done_of}; the same command continues from there")
                sys.exit(exit_status(asked()))
    return meter.history


def _in_parallel(learner: Learner) -> nn.Module:
    """The learner, its gradients averaged over the processes; its buffers stay each process's own."""
    known = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    return DistributedDataParallel(learner, **{buffers: False})  # type: ignore[arg-type]


def _resume(
    learner: Learner, optimizer: torch.optim.Optimizer, state: ResumableState, world: World
) -> tuple[int, Meter]:
    """The next step and the meter; restores weights and optimizer. Without a state: the beginning."""
    saved = state.load()
    # All have read when all have told, so that the first process may save again.
    steps = set(world.gather(0 if saved is None else saved["step"]))
    if len(steps) > 1:
        raise SohesError(
            f"the processes of one training would begin at different steps ({', '.join(map(str, sorted(steps)))}), by "
            f"what each finds in {state.folder}: let all see the same folder, or remove it everywhere to begin again"
        )
    if saved is None:
        return 0, Meter()
    learner.load_state_dict(saved["learner"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], Meter(saved["history"], saved["sums"], saved["count"])


def _gradients(
    model: nn.Module,
    parts: Iterator,
    params: Schedule,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[dict[str, Tensor], list[str]]:
    """Accumulate a step's gradients part by part; the mean of each loss, and the records that were skipped."""
    sums: dict[str, Tensor] = {}
    skipped: list[str] = []
    model.zero_grad(set_to_none=True)
    for part in range(params.accumulate):
        loaded = next(parts)
        skipped += loaded.skipped
        is_last = part == params.accumulate - 1
        hold = nullcontext() if is_last or not isinstance(model, DistributedDataParallel) else model.no_sync()
        with hold:
            with half_precision(device, params.optim.amp):
                losses = model(loaded.batch.to(device), generator)
            (losses["loss"] / params.accumulate).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / params.accumulate
    return sums, skipped


def _generator(seed: int, step: int, world: World) -> torch.Generator:
    """Random numbers of one step of one process; torch's own generator (dropout) gets the same seed."""
    number = int(np.random.SeedSequence((seed, _STEP_SEED, step, world.rank)).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(number)
    return torch.Generator(world.device).manual_seed(number)


def clip(network: nn.Module, clip_norm: float) -> Tensor:
    """Clip all gradients together to `clip_norm` (0: not at all); the norm that they had."""
    return nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)


@torch.no_grad()
def move_average(learner: Learner, step: int) -> None:
    if learner.average is None:
        return
    momentum = learner.momentum(step)
    pairs = zip(learner.average.parameters(), learner.network.parameters(), strict=True)
    averages, current = zip(*((a, p) for a, p in pairs if p.requires_grad), strict=True)
    torch._foreach_lerp_(averages, current, 1 - momentum)
    for buffer, new in zip(learner.average.buffers(), learner.network.buffers(), strict=True):
        buffer.copy_(new)


class Meter:
    """Means of the values since the last row, and all rows so far."""

    def __init__(
        self, history: list[dict[str, float]] | None = None, sums: dict[str, float] | None = None, count: int = 0
    ) -> None:
        self.history, self._sums, self._count = history or [], sums or {}, count
        self._since, self._timed = time.monotonic(), 0

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._timed += 1

    def flush(self, step: int) -> dict[str, float]:
        """A row of means, with the number of images skipped so far; starts the next row."""
        row = {name: total / self._count for name, total in self._sums.items()}
        row["skipped_images"] = self._sums["skipped_images"]
        self.history.append({"step": step, **row})
        self._sums, self._count = {"skipped_images": self._sums["skipped_images"]}, 0
        return row

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the block, such as a validation, is no part of the steps' time."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def seconds_per_step(self) -> float:
        """Since the last call, without pauses."""
        now = time.monotonic()
        seconds = (now - self._since) / max(1, self._timed)
        self._since, self._timed = now, 0
        return seconds

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "sums": self._sums, "count": self._count}


def _machine(seconds_per_step: float, images_per_step: int, world: World) -> dict[str, float]:
    peak = torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else peak_bytes()
    return {"images_per_second": images_per_step / seconds_per_step, "peak_memory_mib": peak / 2**20}


def _stacked(values: Mapping[str, Tensor | float], world: World) -> Tensor:
    """float64, on the device: numbers are written there by a kernel, since a copy would wait."""
    as_tensors = [
        v if isinstance(v, Tensor) else torch.full((), float(v), device=world.device) for v in values.values()
    ]
    return torch.stack([value.float().double() for value in as_tensors])


def _not_finite(title: str, step: int, values: Mapping[str, float], remedy: str) -> str:
    shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if not name.startswith(("asked", "skip")))
    return f"{title} stopped: the loss or its gradient is not finite at step {step} ({shown}); {remedy}"
