"""A data set in memory and a network of a few thousand weights: training in milliseconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sohes import masks
from sohes.params import AugmentParams, CorrectParams, InstructParams, LossParams, OptimParams, TilesParams
from sohes.structures import ImageRecord, ModelOutput
from sohes.train.dataset import LabelDataset
from sohes.train.state import ResumableState
from sohes.train.world import World

SIZE = 32
OPTIM = OptimParams(
    learning_rate=0.01, backbone_lr_scale=0.5, weight_decay=0.02, warmup_steps=2, clip_norm=1.0, amp=False
)
AUGMENT = AugmentParams(scale_min=0.8, scale_max=1.4, colour_jitter=0.3, greyscale=0.1, blur=0.1, copy_paste=0.5)
NO_TILES = TilesParams(levels=(), overlap=0.25, score_factor=0.9)
SHARED = {
    "steps": 6,
    "batch_size": 4,
    "accumulate": 1,
    "max_targets": 10,
    "optim": OPTIM,
    "augment": AUGMENT,
    "workers": 0,
    "compile": False,
    "checkpoint_every": 100,
    "validate_every": 0,
}


class TinyNetwork(nn.Module):
    """Query k's mask is a convolution of the image; dropout makes it depend on torch's own random numbers."""

    def __init__(self, queries: int = 6) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.mask_weight = nn.Conv2d(8, queries, 1)
        self.class_weight = nn.Linear(8, 2 * queries)
        self.ancestor_weight = nn.Linear(8, queries * queries)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.queries, self.dropout = queries, 0.1

    def forward(self, images_B3HW: Tensor) -> ModelOutput:
        if self.training:
            self.seen += 1
        cells = F.dropout(F.avg_pool2d(self.backbone(images_B3HW), 4).relu(), self.dropout, self.training)
        pooled, n, q = cells.mean((2, 3)), len(cells), self.queries
        classes, ancestors = self.class_weight(pooled).view(n, q, 2), self.ancestor_weight(pooled).view(n, q, q)
        return ModelOutput(classes, self.mask_weight(cells), ancestors)


class MemoryStore:
    """Images and labels at once: noise with a bright root that has a part, and a second root."""

    def __init__(self, *, count: int, empty: bool = False) -> None:
        self.image_ids = list(range(count))
        self.empty = empty

    def read(self, image_id: int) -> np.ndarray:
        image = np.random.default_rng(image_id).integers(0, 100, (24, SIZE, 3), np.uint8)
        image[2:20, 2:20] += 100
        return image

    def record(self, image_id: int) -> ImageRecord:
        shown = np.zeros((0 if self.empty else 3, 24, SIZE), bool)
        if not self.empty:
            shown[0, 2:20, 2:20], shown[1, 4:12, 4:12], shown[2, 4:22, 22:30] = True, True, True
        parents = None if self.empty else [-1, 0, -1]
        return ImageRecord(image_id, f"{image_id}.png", "", masks.mask_set(shown, parents=parents))


class MemoryRecorder:
    """Keeps what it is told: `rows` of (step, values)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def metrics(self, values, step=None):
        self.rows.append((step, dict(values)))


def make_dataset(kind=LabelDataset, *, count=8, empty=False, batch_size=4, seed=0, augment=AUGMENT, **more):
    store = MemoryStore(count=count, empty=empty)
    normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return kind(
        store, store, image_size=SIZE, max_targets=10, augment=augment, normalisation=normalisation,
        batch_size=batch_size, seed=seed, **more,
    )  # fmt: skip


def make_network(seed: int = 0) -> TinyNetwork:
    torch.manual_seed(seed)
    return TinyNetwork()


def make_state(folder: Path, fingerprint: str = "f") -> ResumableState:
    return ResumableState(folder, fingerprint)


@pytest.fixture
def tiny() -> SimpleNamespace:
    return tiny_settings()


def tiny_settings() -> SimpleNamespace:
    """The makers above, params of both phases, and a world of one CPU process."""
    return SimpleNamespace(
        network=make_network,
        dataset=make_dataset,
        state=make_state,
        recorder=MemoryRecorder,
        world=World(0, 1, torch.device("cpu")),
        instruct=InstructParams(start=None, backbone_of_start=False, ema=0.9, **SHARED),
        correct=CorrectParams(
            teacher_momentum=0.9, theta_score_small=0.3, theta_score_large=0.7, gamma=200, nms_iou=0.9,
            theta_cover=0.9, parent_crops=0, parent_min_fraction=0.05, child_cover=0.7, tiles=NO_TILES,
            refiner="none", refine_min_iou=0.5, keep_labels=False, hold_free=False, no_object_weight=0.1, **SHARED,
        ),
        loss=LossParams(
            class_weight=2, matching_class_weight=2, queries_per_target=1, near_dice=0.7,
            mask_weight=5, dice_weight=5, ancestor_weight=1,
            no_object_weight=0.1, num_points=0, oversample_ratio=3, importance_fraction=0.75,
            deep_supervision=True, matched_only=False,
        ),
    )  # fmt: skip
