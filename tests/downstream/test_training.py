"""Batches of examples, and that both probes learn on an untrained ViT that stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from sohes.backbone.vit import Backbone
from sohes.downstream.probes import DetectionProbe, SemanticProbe
from sohes.downstream.scores import score_detection, score_semantic
from sohes.downstream.sets.examples import ClassSet, Example
from sohes.downstream.training import ExampleDataset, Probing
from sohes.params import AdapterParams, DownstreamParams
from sohes.train.loop import train
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
    history = train(
        Probing(network, averaged=False), dataset, params(steps), title="downstream", seed=0, world=world, state=state,
        recorder=Nobody(),
    )  # fmt: skip
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


# ---------------------------------------------------------------- data


def drawn(number: int) -> Example:
    """40 x 20 pixels: class 1 in the left half, 0 in the right one, and a box round the left half."""
    image = np.full((20, 40, 3), number, np.uint8)
    classes = np.zeros((20, 40), np.int16)
    classes[:, :20] = 1
    return Example(image, classes, np.array([[0, 0, 20, 20]], np.float32), np.array([1]))


@pytest.fixture
def dataset() -> ExampleDataset:
    data = ClassSet(("a", "b"), train=range(6), val=(), read=drawn)
    return ExampleDataset(data, image_size=40, batch_size=4, normalisation=([0.0] * 3, [1.0] * 3), seed=3)


def test_every_epoch_shows_every_example_once(dataset):
    numbers = [int(dataset[step, k].image_HW3[0, 0, 0]) for step in range(3) for k in range(4)]
    assert sorted(numbers[:6]) == sorted(numbers[6:]) == list(range(6))
    assert numbers[:6] != numbers[6:]


def test_half_of_them_are_mirrored_and_the_same_position_is_the_same_sample(dataset):
    lefts = [float(dataset[step, 0].boxes_T4[0, 0]) for step in range(60)]
    assert 15 < sum(left > 0 for left in lefts) < 45
    assert lefts == [float(dataset[step, 0].boxes_T4[0, 0]) for step in range(60)]


def test_a_batch_is_normalised_and_keeps_every_box(dataset):
    batch = dataset.collate([dataset[0, k] for k in range(2)]).batch
    assert batch.images_B3HW.shape == (2, 3, 40, 40)
    assert batch.images_B3HW.max() < 1
    assert batch.classes_BHW.shape == (2, 40, 40)
    assert [boxes.shape for boxes in batch.boxes] == [(1, 4), (1, 4)]
