"""Phase 2's step with the models of params/one-gpu.yaml and params/paper.yaml: speed, memory, share of the peak."""

from __future__ import annotations

import torch

from infra.gpu.lab import Lab, Row, Rows, batch, forget, network
from infra.gpu.pace import PEAK_TFLOPS, alone, fitting, host_waits, pace, tflop_per_image
from sohes.train.instruct import Instruction

VARIANTS: tuple[tuple[str, dict], ...] = (
    ("one-gpu", {}),
    ("paper", {}),
    ("one-gpu", {"amp": False}),
    ("paper", {"recompute_blocks": False}),
    ("one-gpu", {"recompute_blocks": True}),
)


def run(lab: Lab) -> Rows:
    """A row a variant, the first with the host's waits."""
    work: dict[str, float] = {}
    for number, (profile, variant) in enumerate(VARIANTS[:2] if lab.toy else VARIANTS):
        if number and lab.left() < (2 if lab.toy else 8):
            return
        if profile not in work:
            work[profile] = tflop_per_image(lab.params(profile))
        seconds = min(5, lab.left() / 3)
        yield row(lab, profile, work[profile], seconds=seconds, watch=number == 0, **variant)


def row(lab: Lab, profile: str, tflop: float, *, seconds: float, watch: bool, **variant: object) -> Row:
    """One variant at the largest batch that fits."""
    forget(lab)
    params = lab.params(profile)
    amp = bool(variant.pop("amp", params.instruct.optim.amp))
    compiles = bool(variant.pop("compile", False))
    params = params.model_copy(update={"model": params.model.model_copy(update=variant)})
    section = params.instruct
    images = fitting(params, alone(section, 1, amp=amp), lab)
    words = [profile, "bf16" if amp else "float32", "compiled" if compiles else ""]
    words += ["blocks recomputed" if params.model.recompute_blocks else ""]
    named: Row = {"what": ", ".join(filter(None, words))}
    while images:
        learner = Instruction(network(params, lab.device), section, params.loss)
        settings = alone(section, images, amp=amp, compile=compiles)
        given = batch(params, images)
        try:
            found = pace(learner, given, settings, lab, seconds=seconds)
            share = {} if lab.toy else {"peak_share": round(tflop * float(found["images_per_second"]) / PEAK_TFLOPS, 4)}
            waits = host_waits(learner, given, settings, lab) if watch and not lab.toy else {}
            return named | found | {"tflop_per_image": float(f"{tflop:.3g}")} | share | waits
        except torch.OutOfMemoryError:
            images //= 2
        del learner
        torch.cuda.empty_cache()
    return named | {"error": "not even one image fits"}
