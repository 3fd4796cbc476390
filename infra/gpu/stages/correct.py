"""A step of phase 3: seconds, memory, and the teacher's share of it."""

from __future__ import annotations

import time

import numpy as np
import torch

from infra.gpu.lab import Lab, Rows, network
from infra.gpu.pace import alone, fitting, host_waits, pace
from infra.gpu.stages.loader import dataset
from sohes.params import Params
from sohes.train.correct import Correction
from sohes.train.dataset import PairBatch, PairDataset
from sohes.train.lesson import teach


def run(lab: Lab) -> Rows:
    """The one-gpu model; its class head says that everything is an entity, so that the teacher has masks to teach."""
    params = lab.params("one-gpu")
    section = params.correct.model_copy(update={"theta_score_small": 0.3, "theta_score_large": 0.3})
    images = max(1, fitting(params, alone(section, 1), lab) // 2)
    data = dataset(lab, params, PairDataset)
    given = data.collate([data[0, k] for k in range(images)]).batch
    model = network(params, torch.device("cpu"))
    with torch.no_grad():
        model.mask_decoder.class_head.bias.copy_(torch.tensor([4.0, -4.0]))
    learner = Correction(model, section, params.loss)
    settings = alone(section, images)
    found = pace(learner, given, settings, lab, seconds=min(5, lab.left() / 3))
    step = 1 / float(found["steps_per_second"])
    teacher, taught = _teacher(lab, learner, given, params)
    waits = {} if lab.toy else host_waits(learner, given, settings, lab)
    yield {
        "what": "one-gpu",
        **found,
        "seconds_per_step": round(step, 4),
        "teacher_seconds": round(teacher, 4),
        "teacher_share": round(teacher / step, 3),
        "teacher_masks_per_image": taught,
        **waits,
    }


@torch.no_grad()
def _teacher(lab: Lab, learner: Correction, given: PairBatch, params: Params) -> tuple[float, float]:
    """Seconds of the teacher's pass and lessons for the batch, the better of three, and its masks of an image."""
    weak, spent = given.weak_B3HW.to(lab.device), []
    for _ in range(3):
        lab.wait()
        start = time.monotonic()
        with torch.autocast(lab.device.type, torch.bfloat16, enabled=params.correct.optim.amp):
            output = learner.average(weak)
            views = [pair.weak for pair in given.pairs]
            rngs = [np.random.default_rng(0) for _ in views]
            shown = [pair.shown for pair in given.pairs]
            lessons = teach(output.class_logits_BQ2, output.mask_logits_BQhw, views, shown, learner.params, rngs=rngs)
        lab.wait()
        spent.append(time.monotonic() - start)
    return min(spent), round(sum(len(lesson.parents_K) for lesson in lessons) / len(lessons), 1)
