from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sohes.errors import SohesError
from sohes.explore.packed import pack
from sohes.explore.refine import make_refiner
from sohes.explore.refine.cascadepsp import LEAST_MARGIN, WEIGHTS, CascadePspRefiner, load_cascadepsp


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
    monkeypatch.setitem(sys.modules, "segmentation_refinement", module)
    return made


def drawn() -> np.ndarray:
    masks = np.zeros((3, 80, 200), bool)
    masks[0, 10:20, 100:120] = True
    masks[1, 40:80, 150:200] = True  # at the border
    return masks  # the last one is empty


def test_each_mask_is_what_the_network_makes_of_it_in_its_place() -> None:
    seen = []

    def network(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.append((image, mask))
        return np.roll(mask, -1, 1)

    image = np.random.default_rng(0).integers(0, 256, (80, 200, 3), np.uint8)
    masks = drawn()
    refined = CascadePspRefiner(network).refine(image, pack(masks, size=(80, 200))).unpacked()
    np.testing.assert_array_equal(refined[0], np.roll(masks[0], -1, 1))
    np.testing.assert_array_equal(refined[1, :, :199], np.roll(masks[1], -1, 1)[:, :199])
    assert not refined[2].any()
    assert len(seen) == 2  # nothing to refine in an empty one
    np.testing.assert_array_equal(seen[0][0], image[0 : 20 + LEAST_MARGIN, 100 - LEAST_MARGIN : 120 + LEAST_MARGIN])
    assert seen[0][1].sum() == 255 * masks[0].sum()


def test_it_says_that_human_masks_made_it(package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "model"))
    refiner = make_refiner("cascadepsp", patch=8)
    assert not refiner.label_free
    refined = refiner.refine(np.zeros((80, 200, 3), np.uint8), pack(drawn(), size=(80, 200))).unpacked()
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
