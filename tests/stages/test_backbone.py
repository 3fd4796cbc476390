import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from sohes.backbone.vit import load_backbone
from sohes.errors import SohesError
from sohes.params import Params
from sohes.stages import backbone, pull
from sohes.work.files import digest_file


@pytest.fixture
def params(tiny_params: dict) -> Params:
    return Params.model_validate(tiny_params)


@pytest.fixture
def root(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its images pulled."""
    monkeypatch.setenv("SOHES_WORKERS", "1")
    pull.run(params, tmp_path)
    return tmp_path


def changed(params: Params, **values: object) -> Params:
    return params.model_copy(update={"backbone": params.backbone.model_copy(update=values)})


def test_training_writes_the_weights_with_a_card_and_leaves_no_state(params, root, capfd):
    backbone.run(params, root)
    weights = root / "models/backbone.safetensors"
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["digest"] == digest_file(weights)
    assert card["images"] == digest_file(root / "data/images/manifest.parquet")
    assert card["seed"] == params.seed
    assert card["label_free"] is True
    assert card["params"]["dino"]["steps"] == 3
    assert load_backbone(weights).embed_dim == 32
    assert not (root / ".sohes/backbone").exists()
    assert "backbone 3/3" in capfd.readouterr().err


def test_a_stop_on_request_continues_to_the_same_bytes(params, root, monkeypatch, capfd):
    backbone.run(params, root)
    weights = root / "models/backbone.safetensors"
    expected = weights.read_bytes()
    weights.unlink()

    def shrunk(image_HW3: np.ndarray, side: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)  # while the first batch is read
        return image_HW3

    with monkeypatch.context() as patched:
        patched.setattr(backbone, "shrunk", shrunk)
        with pytest.raises(SystemExit) as stopped:
            backbone.run(params, root)
    assert stopped.value.code == 75
    assert (root / ".sohes/backbone/state.pt").exists()
    assert not weights.exists()
    assert "stopped on request" in capfd.readouterr().err
    backbone.run(params, root)
    assert weights.read_bytes() == expected


def test_a_file_is_taken_as_it_is_and_needs_no_images(params, root, tmp_path_factory):
    backbone.run(params, root)
    weights = root / "models/backbone.safetensors"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    backbone.run(changed(params, pretrained=str(weights)), elsewhere)
    copied = elsewhere / "models/backbone.safetensors"
    assert copied.read_bytes() == weights.read_bytes()
    card = json.loads(copied.with_suffix(".json").read_text())
    assert (card["params"]["pretrained"], card["label_free"]) == (str(weights), True)


def test_without_images_the_stage_to_run_is_named(params, tmp_path):
    with pytest.raises(SohesError, match="run `sohes pull` first"):
        backbone.run(params, tmp_path)


def test_a_photograph_is_shrunk_to_what_a_crop_needs():
    photograph = np.zeros((300, 400, 3), np.uint8)
    assert backbone.shrunk(photograph, 150).shape == (150, 200, 3)
    assert backbone.shrunk(photograph, 300) is photograph


def test_images_are_read_once_up_to_the_limit():
    read: list[int] = []

    def load(image_id: int) -> np.ndarray:
        read.append(image_id)
        return np.full((10, 10, 3), image_id, np.uint8)

    once = backbone.cached(load, limit=700)  # two of 300 bytes
    for image_id in (1, 2, 3, 1, 2, 3):
        assert once(image_id)[0, 0, 0] == image_id
    assert read == [1, 2, 3, 3]
