from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sohes.errors import SohesError
from sohes.explore.refine import is_label_free, make_refiner, most_workers, weights_digest, what_it_lacks
from sohes.explore.refine.network import LEAST_MARGIN, RELEASES, NetworkRefiner
from sohes.masks.packed import pack


def test_each_mask_is_what_the_network_makes_of_it_in_its_place(drawn: np.ndarray) -> None:
    seen = []

    def network(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.append((image, mask))
        return np.roll(mask, -1, 1) > 0

    image = np.random.default_rng(0).integers(0, 256, (80, 200, 3), np.uint8)
    refined = NetworkRefiner(network).refine(image, pack(drawn, size=(80, 200))).unpacked()
    np.testing.assert_array_equal(refined[0], np.roll(drawn[0], -1, 1))
    np.testing.assert_array_equal(refined[1, :, :199], np.roll(drawn[1], -1, 1)[:, :199])
    assert not refined[2].any()
    assert len(seen) == 2  # nothing to refine in an empty one
    np.testing.assert_array_equal(seen[0][0], image[0 : 20 + LEAST_MARGIN, 100 - LEAST_MARGIN : 120 + LEAST_MARGIN])
    assert seen[0][1].sum() == 255 * drawn[0].sum()


@pytest.mark.parametrize("refiner", ["cascadepsp", "crm"])
def test_the_digest_is_that_of_the_weights(refiner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, variable = tmp_path / "model", RELEASES[refiner].variable
    monkeypatch.setenv(variable, str(weights))
    with pytest.raises(SohesError, match=rf"weights are not at {weights}: fetch .* there, or name it in {variable}"):
        weights_digest(refiner)
    if package := RELEASES[refiner].package:  # as where it is installed
        module = ModuleType(package)
        module.__spec__ = ModuleSpec(package, None)
        monkeypatch.setitem(sys.modules, package, module)
    assert variable in (what_it_lacks(refiner) or "")
    weights.write_bytes(b"one")
    assert what_it_lacks(refiner) is None  # nothing is loaded to say so
    one = weights_digest(refiner)
    weights.write_bytes(b"two")
    assert weights_digest(refiner) != one
    assert weights_digest("guided") is None
    assert not is_label_free(refiner)
    for name in ("none", "guided", "densecrf"):
        assert is_label_free(name) == make_refiner(name, patch=8).label_free
    assert is_label_free(refiner) == NetworkRefiner.label_free


def test_as_many_processes_refine_as_the_gpu_has_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert most_workers("crm", 16) == 16
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for free, workers in ((80e9, 16), (10e9, 3), (1e9, 1)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda free=free: (free, 80e9))
        assert most_workers("crm", 16) == workers
    assert most_workers("guided", 16) == 16
