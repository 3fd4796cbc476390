"""Phase 1 at the paper's size: seconds of each step of an image, images a second by workers, and where it is bound."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from infra.gpu.lab import ROOT, Lab, Row, Rows, forget, pictures
from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.bench.explore import Timed, label_in_steps
from sohes.bench.places import place_tokens, places_image
from sohes.explore.feature_server import FeatureServer
from sohes.explore.label_image import label_image
from sohes.explore.local import Extract
from sohes.explore.maps import make_extractor
from sohes.params import BackboneParams, ExploreParams, load_params
from sohes.work.memory import keep_freed_memory
from sohes.work.pool import one_thread_each

_ready: threading.Barrier  # of a worker's process
BUSY = 0.85  # share of the time from which on a part is what bounds the whole
DINOV2 = {
    "architecture": "vit_small_patch14_dinov2",
    "patch_size": 14,
    "embed_dim": 384,
    "depth": 12,
    "num_heads": 6,
    "image_size": 518,
}


@dataclass(frozen=True)
class Subject:
    """What is labelled. stand_in: channels of tokens that stand in for those of random weights; 0 for real ones."""

    name: str
    images: list[np.ndarray]
    params: ExploreParams
    backbone: Path
    stand_in: int


class StandIn:
    """Asks the ViT, whose random weights know nothing, and answers with the tokens of `sohes.bench.places`.

    They are made once for each call of an image, since making them takes longer than the ViT.
    """

    def __init__(self, extract: Extract, dim: int, patch_size: int) -> None:
        self.extract, self.tokens = extract, place_tokens(dim, patch_size=patch_size)
        self.made: dict[tuple[int, int], list[np.ndarray]] = {}
        self.call = 0

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.extract(images)
        self.call = 0 if len(images) == 1 and images[0].shape[0] > 512 else self.call + 1
        key = self.call, len(images)
        if key not in self.made:
            self.made[key] = self.tokens(images)
        return self.made[key]


def run(lab: Lab) -> Rows:
    """DINOv2 where its weights are given, then the paper's ViT with random weights; one process, then several."""
    subjects = _subjects(lab)
    for subject in subjects:
        yield _alone(lab, subject)
    for workers in (2,) if lab.toy else (8, 16, 4, 1):
        for subject in subjects:
            if lab.left() < (4 if lab.toy else 12):
                return
            yield _pool(lab, subject, workers)
            forget(lab)


def _subjects(lab: Lab) -> list[Subject]:
    params = lab.params("paper")
    found = []
    if lab.weights is not None:
        backbone = params.backbone.model_copy(update={"pretrained": str(lab.weights), **DINOV2})
        sides = {"image_size": 112, "crop_size": 28} if lab.toy else {"image_size": 1022, "crop_size": 252}
        section = params.explore.model_copy(update={"patch_size": 14, **sides})
        path = _saved(lab, "dinov2", backbone)
        found.append(Subject("DINOv2 ViT-S/14", pictures(lab, 8, section.image_size), section, path, 0))
    random = params.backbone.model_copy(update={"pretrained": "train"})
    section = params.explore.model_copy(update={"patch_size": random.patch_size})
    path = _saved(lab, "random", random)
    name = f"{random.architecture}, random weights"
    found.append(Subject(name, [places_image(section.image_size)], section, path, random.embed_dim))
    return found


def _saved(lab: Lab, name: str, params: BackboneParams) -> Path:
    path = lab.folder / f"{name}.safetensors"
    torch.manual_seed(0)
    save_backbone(build_backbone(params), path, {})
    return path


def _answering(subject: Subject, extract: Extract) -> Extract:
    return StandIn(extract, subject.stand_in, subject.params.patch_size) if subject.stand_in else extract


def _alone(lab: Lab, subject: Subject) -> Row:
    """One process: the median over some images of the seconds of each step, after one that compiles."""
    vit = Timed(make_extractor(subject.params, subject.backbone))
    extract = _answering(subject, vit)
    found, _ = label_in_steps(subject.images[0], extract, subject.params)
    spent, vits, start = [], [], time.monotonic()
    for image in subject.images * 8:
        before = vit.seconds
        found, steps = label_in_steps(image, extract, subject.params)
        vits.append(vit.seconds - before)
        spent.append(steps)
        if len(spent) >= (1 if lab.toy else 8) or time.monotonic() - start > lab.left() / 6:
            break
    middle = {name: round(float(np.median([s[name] for s in spent])), 4) for name in spent[0]}
    middle["features"] = round(float(np.median(vits)), 4)
    total = sum(middle.values())
    seconds = {f"{name}_seconds": value for name, value in middle.items()}
    bound = max(middle, key=lambda name: middle[name])
    return {
        "what": f"{subject.name}, one process",
        "masks": len(found),
        **seconds,
        "seconds_per_image": round(total, 4),
        "bound_by": bound,
    }


# ---------------------------------------------------------------- several processes


def _pool(lab: Lab, subject: Subject, workers: int) -> Row:
    """Images a second while all workers are at work, beside one server of features; each labels one image before."""
    timed = Timed(make_extractor(subject.params, subject.backbone))
    server = FeatureServer(timed)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(workers + 1)
    seconds, begun = max(2.0, lab.left() / 4), time.monotonic()
    try:
        with one_thread_each(), ProcessPoolExecutor(workers, context, _enter, (ready,)) as pool:
            jobs = [pool.submit(_work, subject, server.remote, seconds) for _ in range(workers)]
            ready.wait(max(10.0, lab.left()))
            busy, start = timed.seconds, time.monotonic()
            done = [job.result() for job in jobs]
            busy, spent = timed.seconds - busy, time.monotonic() - start
    finally:
        server.close()
    per_second = sum(images / elapsed for images, elapsed, _ in done)
    waits = sum(waited for *_, waited in done) / sum(elapsed for _, elapsed, _ in done)
    served = busy / spent
    bound = "features" if served > BUSY else "moving features between processes" if waits > 0.5 else "workers"
    return {
        "what": f"{subject.name}, {workers} workers",
        "images_per_second": round(per_second, 3),
        "seconds_per_image": round(1 / per_second, 4),
        "server_busy": round(served, 3),
        "workers_wait": round(waits, 3),
        "images": sum(images for images, *_ in done),
        "start_seconds": round(start - begun, 1),
        "bound_by": bound,
    }


def _enter(ready: threading.Barrier) -> None:
    global _ready
    _ready = ready
    keep_freed_memory()  # as a worker does
    cv2.setNumThreads(1)


def _work(subject: Subject, remote: Extract, seconds: float) -> tuple[int, float, float]:
    """Label images for some seconds, once all workers have labelled one: images, seconds, of them without features."""
    asked = Timed(remote)
    extract = _answering(subject, asked)
    label_image(subject.images[0], extract, subject.params)
    _ready.wait()
    asked.seconds, images, start = 0.0, 0, time.monotonic()
    while not images or time.monotonic() - start < seconds:
        label_image(subject.images[images % len(subject.images)], extract, subject.params)
        images += 1
    return images, time.monotonic() - start, asked.seconds


def compile_kernels() -> None:
    """Compile phase 1's kernels into numba's cache, which takes a minute on a new machine."""
    params = load_params(ROOT / "params/paper.yaml").explore
    small = params.model_copy(update={"image_size": 256, "crop_size": 64, "theta_small": 0.05})
    label_image(places_image(128), place_tokens(16, patch_size=params.patch_size), small)
