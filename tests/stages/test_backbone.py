import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sohes.backbone.checkpoint import load_backbone
from sohes.errors import SohesError
from sohes.params import Params
from sohes.stages import backbone, pull
from sohes.train import crops
from sohes.train.state import ResumableState
from sohes.work.files import digest_file
from sohes.work.identity import identity


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
    assert card["images"] == digest_file(root / "data/images/manifest.arrow")
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
        patched.setattr(crops, "shrunk", shrunk)
        with pytest.raises(SystemExit) as stopped:
            backbone.run(params, root)
    assert stopped.value.code == 75
    assert (root / ".sohes/backbone/state.pt").exists()
    assert not weights.exists()
    assert "stopped on request" in capfd.readouterr().err
    backbone.run(params, root)
    assert weights.read_bytes() == expected


PAIR = """
import os, sys; from pathlib import Path
from sohes.stages import backbone; from sohes.params import Params

root, save_backbone = Path(sys.argv[1]), backbone.save_backbone
def noted(*arguments):
    (root / f"written-by-{os.environ['RANK']}").touch()
    save_backbone(*arguments)
backbone.save_backbone = noted
backbone.run(Params.model_validate_json((root / "params.json").read_text()), root)
"""


def test_two_processes_train_one_backbone_and_the_first_writes_it(params, root, two_processes):
    backbone.run(params, root)
    weights = root / "models/backbone.safetensors"
    alone = load_file(weights)
    weights.unlink()
    (root / "params.json").write_text(params.model_dump_json())
    said = two_processes(PAIR, root)
    for name, tensor in load_file(weights).items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-4)
    assert [path.name for path in root.glob("written-by-*")] == ["written-by-0"]
    assert "backbone 3/3" in said[0]
    assert "backbone 3/3" not in said[1]
    assert not (root / ".sohes/backbone").exists()


def test_of_two_processes_one_copies_a_file(params, root, two_processes, tmp_path_factory):
    backbone.run(params, root)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    copies = changed(params, pretrained=str(root / "models/backbone.safetensors"))
    (elsewhere / "params.json").write_text(copies.model_dump_json())
    two_processes(PAIR, elsewhere)
    assert [path.name for path in elsewhere.glob("written-by-*")] == ["written-by-0"]
    assert load_backbone(elsewhere / "models/backbone.safetensors").embed_dim == 32


def test_a_state_of_an_earlier_version_is_discarded_with_a_message(params, root, capfd):
    state = ResumableState(
        root / ".sohes/backbone",
        identity({**backbone.made_of(params), "images": digest_file(root / "data/images/manifest.arrow")}),
    )
    state.begin(None)
    state.save({"step": 2, "student": {}, "teacher": {}, "optimizer": {}, "centre": torch.zeros(16)})
    backbone.run(params, root)
    assert "discarded" in capfd.readouterr().err
    assert (root / "models/backbone.safetensors").exists()


@pytest.mark.parametrize("relative", [False, True])
def test_a_file_is_taken_as_it_is_and_needs_no_images(params, root, tmp_path_factory, relative):
    backbone.run(params, root)
    weights = root / "models/backbone.safetensors"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    if relative:  # from the project's folder, wherever the command runs
        shutil.copytree(root / "models", elsewhere / "given")
    named = "given/backbone.safetensors" if relative else str(weights)
    backbone.run(changed(params, pretrained=named), elsewhere)
    copied = elsewhere / "models/backbone.safetensors"
    assert copied.read_bytes() == weights.read_bytes()
    card = json.loads(copied.with_suffix(".json").read_text())
    assert (card["params"]["pretrained"], card["label_free"]) == (named, True)


def test_a_distilled_backbone_has_the_shape_of_the_params_and_is_as_label_free_as_its_teacher(params, root, capfd):
    backbone.run(params, root)
    teacher = root / "models/teacher.safetensors"
    for suffix in (".safetensors", ".json"):
        (root / "models/backbone").with_suffix(suffix).rename(teacher.with_suffix(suffix))
    shape = params.backbone.model_dump(
        include={"architecture", "patch_size", "embed_dim", "depth", "num_heads", "image_size"}
    )
    named = params.backbone.distill.teacher.model_copy(update={"pretrained": "models/teacher.safetensors", **shape})
    distill = params.backbone.distill.model_copy(update={"teacher": named})
    smaller = changed(params, pretrained="distill", embed_dim=16, distill=distill)
    expected = load_backbone(teacher).state_dict()
    backbone.run(smaller, root)
    student = root / "models/backbone.safetensors"
    assert load_backbone(student).embed_dim == 16
    card = json.loads(student.with_suffix(".json").read_text())
    assert card["label_free"] is True
    assert card["teacher"] == digest_file(teacher)
    assert "backbone 3/3" in capfd.readouterr().err
    assert not (root / ".sohes/backbone").exists()
    assert all(torch.equal(expected[name], weight) for name, weight in load_backbone(teacher).state_dict().items())
    teacher.with_suffix(".json").unlink()  # bare weights, of which nobody knows what trained them
    backbone.run(smaller, root)
    assert json.loads(student.with_suffix(".json").read_text())["label_free"] is None


def test_without_images_the_stage_to_run_is_named(params, tmp_path):
    with pytest.raises(SohesError, match="run `sohes pull` first"):
        backbone.run(params, tmp_path)
