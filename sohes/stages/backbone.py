"""Stage `backbone`: the ViT, trained here on the pulled images, from a file, or from timm's hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch

from sohes import tracking
from sohes.backbone.label_free import is_label_free
from sohes.backbone.vit import Backbone, build_backbone, save_backbone
from sohes.data.store.images import ImageStore
from sohes.errors import SohesError
from sohes.params import Params
from sohes.train.dino import pretrain
from sohes.train.progress import Steps
from sohes.train.state import ResumableState, fingerprint
from sohes.train.stopping import asked_to_stop, exit_status
from sohes.work.files import digest_file

LOG_EVERY = 10  # steps: what is recorded are means over that many
CACHED_BYTES = 2**29  # of decoded images: the demo's are read once, a large collection's each time anew


def run(params: Params, root: Path) -> None:
    """Write `models/backbone.safetensors` and its card; training continues where the same command was stopped.

    SohesError if there are no images to train on, or the weights cannot be had.
    """
    section = params.backbone
    torch.manual_seed(params.seed)
    backbone = build_backbone(section)
    card, claim = made_of(params), {"label_free": is_label_free(section.pretrained)}
    path = root / "models/backbone.safetensors"
    if section.pretrained != "train":
        with tracking.stage_run("backbone", params, root) as recorder:
            save_backbone(backbone, path, card | claim)
            recorder.artifact(path.with_suffix(".json"))
        return
    manifest = root / "data/images/manifest.parquet"
    if not manifest.exists():
        raise SohesError(f"no images at {manifest}: run `sohes pull` first")
    card["images"] = digest_file(manifest)
    state = ResumableState(root / ".sohes/backbone", fingerprint(card))
    with tracking.stage_run("backbone", params, root, resume_id=state.run_id) as recorder:
        state.begin(recorder.run_id)
        save_backbone(_train(backbone, params, root, state, recorder), path, card | claim)
        recorder.artifact(path.with_suffix(".json"))
        state.remove()  # last: until here a kill continues at the end


def made_of(params: Params) -> dict[str, object]:
    """What the card says of the params; of a backbone that was trained here it names the images, too."""
    return {"seed": params.seed, "params": params.backbone.model_dump(mode="json")}


def _train(
    backbone: Backbone, params: Params, root: Path, state: ResumableState, recorder: tracking.Recorder
) -> Backbone:
    """DINO with a progress bar and a record; SystemExit if a signal asks to stop, with the state saved."""
    dino, store = params.backbone.dino, ImageStore(root / "data/images")
    backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    with asked_to_stop() as asked, ExitStack() as open_bars:
        trained = pretrain(
            backbone,
            cached(lambda image_id: shrunk(store.read(image_id), 2 * dino.image_size), limit=CACHED_BYTES),
            store.image_ids,
            dino,
            seed=params.seed,
            state=state,
            on_step=_Report(dino.steps, dino.batch_size, asked, recorder, open_bars),
        )
    if trained is None:
        print(f"backbone: stopped on request, its state is in {state.folder}; run it again to go on", file=sys.stderr)
        sys.exit(exit_status(asked()))
    return trained


class _Report:
    """Called after each step: shows it, records means, and says whether to stop."""

    def __init__(
        self, steps: int, images: int, asked: Callable[[], int], recorder: tracking.Recorder, open_bars: ExitStack
    ) -> None:
        self.steps, self.images, self.asked, self.recorder, self.open_bars = steps, images, asked, recorder, open_bars
        self.shown: Steps | None = None
        self.since: list[dict[str, float]] = []

    def __call__(self, done: int, figures: dict[str, float]) -> bool:
        if self.shown is None:  # only now it is known where the run continues
            bar = Steps("backbone", start=done - 1, steps=self.steps, images_per_step=self.images, shown=True)
            self.shown = self.open_bars.enter_context(bar())
        self.shown.show(done, figures["loss"])
        self.since.append(figures)
        if done % LOG_EVERY == 0 or done == self.steps:
            means = {name: sum(row[name] for row in self.since) / len(self.since) for name in figures}
            self.recorder.metrics(means, step=done)
            self.since = []
        return bool(self.asked())


def shrunk(image_HW3: np.ndarray, side: int) -> np.ndarray:
    """The image with its shorter side at most `side`: a crop needs no more, and a photograph has twenty times that."""
    height, width = image_HW3.shape[:2]
    if min(height, width) <= side:
        return image_HW3
    factor = side / min(height, width)
    return cv2.resize(image_HW3, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)


def cached(read: Callable[[int], np.ndarray], *, limit: int) -> Callable[[int], np.ndarray]:
    """`read`, but an image is read once as long as all that are kept are below `limit` bytes together."""
    kept: dict[int, np.ndarray] = {}
    size = 0

    def read_once(image_id: int) -> np.ndarray:
        nonlocal size
        if image_id in kept:
            return kept[image_id]
        image_HW3 = read(image_id)
        if size + image_HW3.nbytes <= limit:
            kept[image_id] = image_HW3
            size += image_HW3.nbytes
        return image_HW3

    return read_once
