"""What the stage `evaluate` and `sohes results` share: the masks that each phase finds, and what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from sohes.errors import SohesError
from sohes.explore.refine import weights_digest
from sohes.params import Params
from sohes.structures import MaskSet
from sohes.work.files import digest_file

UNTRAINED = "untrained"  # phase 2's network as it starts: what training has to beat
PHASES = ("explore", "instruct", "correct")
Predictor = Callable[[Iterable[np.ndarray]], Iterator[MaskSet]]


def depends_on(phase: str, params: Params, root: Path) -> dict[str, object]:
    """All that a phase's shards of masks depend on, beside the images. SohesError if its model is missing."""
    section = params.explore if phase == "explore" else params.evaluate
    return {
        "params": section.model_dump(mode="json"),
        "images_per_shard": params.evaluate.images_per_shard,
        "model": _model_digest(phase, params, root),
        "refiner": weights_digest(section.refiner),
    }


def _model_digest(phase: str, params: Params, root: Path) -> str:
    if phase in ("instruct", "correct"):
        path = root / f"models/{phase}.safetensors"
        if not path.exists():
            raise SohesError(f"no model at {path}: run `sohes {phase}` first")
        return digest_file(path)
    backbone = root / "models/backbone.safetensors"
    if not backbone.exists():
        raise SohesError(f"no backbone at {backbone}: run `sohes backbone` first")
    model = params.model.model_dump_json() if phase == UNTRAINED else ""
    return f"{digest_file(backbone)} {params.seed} {model}"


def make_predictor(phase: str, params: Params, root: Path) -> Predictor:
    """The function from images to masks that a phase has learned so far."""
    if phase == "explore":
        from sohes.explore.label_image import label_image, make_extractor

        extract = make_extractor(params.explore, root / "models/backbone.safetensors")
        return lambda images: (label_image(image, extract, params.explore) for image in images)

    import torch

    from sohes.evaluate.predict import best_device, segment_images

    if phase == UNTRAINED:
        from sohes.backbone.vit import load_backbone
        from sohes.model.build import Network, build_network

        torch.manual_seed(params.seed)
        model: Network = build_network(load_backbone(root / "models/backbone.safetensors"), params.model)
    else:
        from sohes.model.checkpoint import load_checkpoint

        model, _ = load_checkpoint(root / f"models/{phase}.safetensors")
    return partial(segment_images, model.to(best_device()), params=params.evaluate, source=phase)
