"""Masks on their way: what is unpacked is what was packed."""

import numpy as np
import pytest
import torch

from sohes.structures import Batch, Targets
from sohes.train.bits import Bits
from sohes.train.loading import Loaded


@pytest.mark.parametrize("shape", [(3, 16, 24), (5, 7, 9), (1, 1, 1), (0, 8, 8), (4, 33)])
def test_packed_and_unpacked(shape):
    values = np.random.default_rng(0).random(shape) < 0.4
    bits = Bits.of(values)
    assert bits.packed_NB.shape == (shape[0], -(-int(np.prod(shape[1:])) // 8))
    unpacked = bits.to(torch.device("cpu"))
    assert unpacked.dtype == torch.bool
    assert np.array_equal(unpacked.numpy(), values)


def test_a_batch_that_is_moved_has_tensors():
    values = np.random.default_rng(0).random((2, 5, 6)) < 0.5
    related = torch.zeros(2, 2, dtype=torch.bool)
    batch = Batch(torch.zeros(1, 3, 5, 6), (Targets(Bits.of(values), related),), (7,)).to("cpu")
    (targets,) = batch.targets
    assert np.array_equal(targets.masks_THW.numpy(), values)
    assert torch.equal(targets.ancestors_TT, related)
    assert batch.image_ids == (7,)


def test_what_waits_for_a_gpu_is_pinned_and_still_packed(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    bits = Bits.of(np.ones((2, 5, 6), bool))
    targets = Targets(bits, torch.zeros(2, 2, dtype=torch.bool))
    loaded = Loaded(Batch(torch.zeros(1, 3, 5, 6), (targets,), (7,)), ("a.jpg: damaged",)).pin_memory()
    (kept,) = loaded.batch.targets
    assert isinstance(kept.masks_THW, Bits)
    assert kept.masks_THW.shape == (2, 5, 6)
    assert any(tensor is bits.packed_NB for tensor in pinned)
    assert len(pinned) == 3  # the image, the bits and the relation
    assert loaded.skipped == ("a.jpg: damaged",)
