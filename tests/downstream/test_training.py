"""Both probes learn what they are shown, with a ViT that knows nothing and stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from sohes.backbone.vit import Backbone
from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.scores import score_detection, score_semantic
from sohes.downstream.sets.examples import ClassSet, Example, ExampleDataset
from sohes.downstream.training import train_probe
from sohes.params import AdapterParams, DownstreamParams
from sohes.train.state import ResumableState
from sohes.train.world import World

SIZE = 64
ADAPTER = AdapterParams(interactions=1, stem_dim=8, num_heads=2, points=4)


class Nobody:
    def metrics(self, values, step=None) -> None:
        pass


def read(number: int) -> Example:
    """A square, red (class 1) or green (class 2), on grey noise (class 0)."""
    random = np.random.default_rng(number)
    image = random.integers(90, 130, (SIZE, SIZE, 3)).astype(np.uint8)
    classes = np.zeros((SIZE, SIZE), np.int16)
    x, y = random.integers(0, SIZE - 32, 2)
    label = 1 + number % 2
    image[y : y + 32, x : x + 32, label - 1] = 250
    classes[y : y + 32, x : x + 32] = label
    return Example(image, classes, np.array([[x, y, x + 32, y + 32]], np.float32), np.array([label]))


DATA = ClassSet(("ground", "red", "green"), train=range(32), val=range(100, 108), read=read)


def params(steps: int) -> DownstreamParams:
    optim = {"learning_rate": 0.005, "weight_decay": 0.0, "warmup_steps": 3, "clip_norm": 1.0, "amp": False}
    return DownstreamParams(
        image_size=SIZE, detection_dim=32, steps=steps, batch_size=4, accumulate=1, optim=optim, workers=0,
        checkpoint_every=10,
    )  # fmt: skip


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        "vit_tiny_patch16_224", {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    )


def taught(network, steps: int, folder: Path) -> list[dict[str, float]]:
    backbone = network.backbone
    before = copy.deepcopy(backbone.state_dict())
    normalisation = (backbone.mean, backbone.std)
    dataset = ExampleDataset(DATA, image_size=SIZE, batch_size=4, normalisation=normalisation, seed=0)
    state = ResumableState(folder, "a")
    state.begin(None)
    world = World(0, 1, torch.device("cpu"))
    history = train_probe(network, dataset, params(steps), seed=0, world=world, state=state, recorder=Nobody())
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    return history


def test_classes_of_pixels_are_learned(backbone, tmp_path):
    network = SemanticProbe(backbone, ADAPTER, classes=3)
    start = score_semantic(network, DATA, image_size=SIZE, batch_size=4)
    history = taught(network, 60, tmp_path)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert score_semantic(network, DATA, image_size=SIZE, batch_size=4) > max(80, start + 30)


def test_boxes_are_learned(backbone, tmp_path):
    network = DetectionProbe(backbone, ADAPTER, classes=3, dim=32, image_size=SIZE)
    taught(network, 100, tmp_path)
    assert score_detection(network, DATA, image_size=SIZE, batch_size=4) > 40
