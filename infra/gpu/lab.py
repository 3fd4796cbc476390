"""What the stages of the GPU check share: the machine, the time left, profiles, networks, batches and photographs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from sohes import masks
from sohes.bench.decode import blob_logits
from sohes.data.scenes.render import render_scene
from sohes.data.sources.folder import list_photographs
from sohes.masks.forest import forest_ancestors, parents_by_coverage
from sohes.model.build import Network
from sohes.model.footprint import build
from sohes.params import Params, load_params
from sohes.structures import Batch, Targets

ROOT = Path(__file__).parents[2]
MASKS = 76  # of a photograph, as phase 1 finds them
Row = dict[str, object]
Rows = Iterator[Row]


@dataclass
class Lab:
    """One run of the check. deadline: of the stage that runs, on `time.monotonic`. folder: for what stages write."""

    device: torch.device
    folder: Path
    weights: Path | None
    photographs: Path | None
    deadline: float

    @property
    def toy(self) -> bool:
        """Without a GPU everything runs at a size that only shows that it runs."""
        return self.device.type == "cpu"

    def left(self) -> float:
        """Seconds of the stage."""
        return self.deadline - time.monotonic()

    def wait(self) -> None:
        """Until the GPU has done what it was given."""
        if not self.toy:
            torch.cuda.synchronize()

    def params(self, profile: str) -> Params:
        """`one-gpu` or `paper`; a toy of the same kind without a GPU."""
        return _toy() if self.toy else load_params(ROOT / f"params/{profile}.yaml")


@cache
def _toy() -> Params:
    values = load_params(ROOT / "params.yaml")
    shapes = {"image_size": 64, "num_queries": 21, "decoder_layers": 1}
    return values.model_copy(
        update={
            "model": values.model.model_copy(update=shapes),
            "backbone": values.backbone.model_copy(update={"image_size": 64, "depth": 2}),
            "explore": values.explore.model_copy(update={"features": "tokens", "image_size": 128, "patch_size": 16}),
        }
    )


def changed(section, **values):
    """A section of the params with other values; those of `optim` by `amp`."""
    if "amp" in values:
        values["optim"] = section.optim.model_copy(update={"amp": values.pop("amp")})
    return section.model_copy(update=values)


def network(params: Params, device: torch.device, **model: object) -> Network:
    """The segmenter of the params, with random weights that depend on nothing else."""
    torch.manual_seed(0)
    return build(params.model_copy(update={"model": params.model.model_copy(update=model)})).to(device)


@cache
def blobs(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(MASKS, side, side) bool blobs of all sizes, and the parents of their forest by coverage."""
    found = (blob_logits(MASKS, side, seed) > 0).numpy()
    return found, parents_by_coverage(masks.intersections(found), theta_cover=0.9)


def batch(params: Params, count: int) -> Batch:
    """Noise with blobs as labels, on the host, the labels shared by all images."""
    side = params.model.image_size
    found, parents = blobs(side)
    targets = Targets(torch.from_numpy(found), torch.from_numpy(forest_ancestors(parents)))
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(images, (targets,) * count, tuple(range(count)))


def pictures(lab: Lab, count: int, longest: int) -> list[np.ndarray]:
    """uint8 RGB images with that longer side: the given photographs, or drawn scenes without any."""
    found = []
    if lab.photographs is not None:
        for name in list_photographs(lab.photographs).photographs[:count]:
            image = cv2.imread(str(lab.photographs / name), cv2.IMREAD_COLOR)
            scale = longest / max(image.shape[:2])
            size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            found.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA)[:, :, ::-1].copy())
    for index in range(count - len(found)):
        scene = _scene(index % 4, min(longest, 384))
        found.append(cv2.resize(scene, (longest, longest), interpolation=cv2.INTER_CUBIC))
    return found


@cache
def _scene(index: int, side: int) -> np.ndarray:
    return render_scene(index, size=side, seed=0).image_HW3


def gigabytes(lab: Lab) -> float | None:
    """Peak of the GPU's memory since the last reset; None without one."""
    return None if lab.toy else round(torch.cuda.max_memory_allocated() / 1e9, 2)


def forget(lab: Lab) -> None:
    """Give the GPU's unused memory back and count its peak again."""
    if not lab.toy:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
