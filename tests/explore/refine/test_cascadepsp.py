from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sohes.errors import SohesError
from sohes.explore.refine import make_refiner, what_it_lacks
from sohes.explore.refine.cascadepsp import load_cascadepsp
from sohes.explore.refine.network import RELEASES
from sohes.masks.packed import pack

WEIGHTS = RELEASES["cascadepsp"].variable


@pytest.fixture(autouse=True)
def _nothing_remembered():
    load_cascadepsp.cache_clear()
    yield
    load_cascadepsp.cache_clear()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list:
    """A stand-in for the package: its network grows a mask by a pixel to the left; what it was made with."""
    made: list = []

    class Refiner:
        def __init__(self, device: str, model_folder: str, download_and_check_model: bool) -> None:
            made.append((device, model_folder, download_and_check_model))

        def refine(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
            assert image.shape[:2] == mask.shape
            assert set(np.unique(mask)) <= {0, 255}
            return np.maximum(mask, np.roll(mask, -1, 1))

    module = ModuleType("segmentation_refinement")
    module.Refiner = Refiner
    module.__spec__ = ModuleSpec("segmentation_refinement", None)
    monkeypatch.setitem(sys.modules, "segmentation_refinement", module)
    return made


def test_it_says_that_human_masks_made_it(
    package, drawn: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "model"))
    refiner = make_refiner("cascadepsp", patch=8)
    assert not refiner.label_free
    refined = refiner.refine(np.zeros((80, 200, 3), np.uint8), pack(drawn, size=(80, 200))).unpacked()
    assert refined.sum((1, 2)).tolist() == [10 * 21, 40 * 51, 0]
    make_refiner("cascadepsp", patch=4)
    assert len(package) == 1  # loaded once
    assert package[0][1:] == (str(tmp_path), False)


def test_what_is_missing_is_named_with_the_remedy(package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "model"))
    with pytest.raises(SohesError, match=rf"weights are not at {tmp_path}/model: fetch .* or name it in {WEIGHTS}"):
        make_refiner("cascadepsp", patch=8)
    (tmp_path / "other.pth").touch()
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "other.pth"))
    with pytest.raises(SohesError, match="to be called model: rename"):
        make_refiner("cascadepsp", patch=8)
    monkeypatch.setitem(sys.modules, "segmentation_refinement", None)  # as where it is not installed
    with pytest.raises(SohesError, match=r"install sohes\[cascadepsp\]"):
        make_refiner("cascadepsp", patch=8)
    assert (what_it_lacks("cascadepsp") or "").startswith("CascadePSP needs the package segmentation-refinement")
    assert what_it_lacks("guided") is None
