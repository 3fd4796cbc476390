import json

import numpy as np
import pytest
import torch
import yaml

from infra.release import FACTS, release
from infra.shared_weights import share_weights
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint, save_checkpoint
from sohes.model.onnx import card_of, load_onnx
from sohes.model.onnx_export import export_onnx

FIGURES = {"coco": {"AR": 12.3}}


@pytest.fixture
def params_file(tiny_params, tmp_path):
    tiny_params["evaluate"]["max_masks"] = 3
    tiny_params["backbone"]["distill"]["teacher"]["pretrained"] = "/home/me/teacher.safetensors"
    (tmp_path / "used.yaml").write_text(yaml.safe_dump(tiny_params))
    return tmp_path / "used.yaml"


@pytest.fixture
def instructed(tiny_model, tmp_path):
    """The tiny model as phase 2 writes one, and the network in it."""
    network, _ = load_checkpoint(tiny_model)
    save_checkpoint(tmp_path / "instruct.safetensors", network, {"phase": "instruct", "steps": 2, "label_free": None})
    return tmp_path / "instruct.safetensors", network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("released")


@pytest.fixture
def released(instructed, params_file, folder):
    """The weights that `release` writes, made once: an ONNX file takes a quarter of a minute."""
    out = folder / "small.safetensors"
    if not out.exists():
        (folder / "figures.json").write_text(json.dumps(FIGURES))
        release(instructed[0], params=params_file, out=out, figures=folder / "figures.json")
    return out


def test_halved_weights_come_back_exactly_in_single_precision(instructed, released):
    model, network = instructed
    loaded, _ = load_checkpoint(released)
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name].half().to(tensor.dtype)), name
    assert released.stat().st_size < 0.6 * model.stat().st_size


def test_an_onnx_file_takes_its_weights_from_the_other(instructed, released, tmp_path):
    graph, alone = released.with_suffix(".onnx"), tmp_path / "alone.onnx"
    export_onnx(released, alone)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (ours,), (theirs,) = (load_onnx(path).predict([image]) for path in (graph, alone))
    for name in ("class_Q2", "mask_Qhw", "ancestor_QQ"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert card_of(graph)["digest"] == json.loads(released.with_suffix(".json").read_text())["digest"]
    assert graph.stat().st_size < 0.7 * alone.stat().st_size
    with pytest.raises(SohesError, match=r"alone.onnx was not made of .*instruct.safetensors"):
        share_weights(alone, instructed[0])  # these are not halved


def test_the_card_says_what_it_is_and_how_it_was_made(released):
    card = json.loads(released.with_suffix(".json").read_text())
    assert card.items() >= FACTS.items()
    assert card["figures"] == FIGURES
    assert card["training"] == "phases 1 and 2, and no phase 3; 2 of 3 steps of phase 2, averaged"
    assert card["label_free"] is None
    assert card["evaluate"]["max_masks"] == 3
    assert card["params"]["backbone"]["distill"]["teacher"]["pretrained"] == "teacher.safetensors"


def test_a_released_model_gets_new_figures_and_keeps_what_is_said_of_its_training(released, params_file, tmp_path):
    again = tmp_path / "small.safetensors"
    release(released, params=params_file, out=again)
    before, after = (json.loads(file.with_suffix(".json").read_text()) for file in (released, again))
    assert after == before | {"figures": None}
    assert again.read_bytes() == released.read_bytes()


def test_the_card_of_a_model_that_began_with_another_names_both(instructed, released, params_file, tmp_path):
    model, network = instructed
    section = json.loads(released.with_suffix(".json").read_text())["params"]["instruct"]
    after = section | {"start": str(released), "steps": 9}
    digest = json.loads(released.with_suffix(".json").read_text())["digest"]
    made: dict = {"phase": "instruct", "params": {"instruct": after}, "digests": {"start": digest}}
    save_checkpoint(model, network, made)
    release(model, params=params_file, out=tmp_path / "longer.safetensors")
    card = json.loads((tmp_path / "longer.json").read_text())
    ways = "phases 1 and 2, and no phase 3; {} steps of phase 2, averaged"
    assert card["training"] == ways.format("9 of 9") + "; begun with small: " + ways.format("2 of 3")
    # the model's own card knows better than the file
    assert card["params"]["instruct"] == after | {"start": "small.safetensors"}

    file = yaml.safe_load(params_file.read_text())
    file["instruct"]["start"] = str(tmp_path / "longer.safetensors")
    params_file.write_text(yaml.safe_dump(file))
    save_checkpoint(model, network, {"phase": "correct", "digests": {"start": card["digest"]}})
    release(model, params=params_file, out=tmp_path / "corrected.safetensors")
    corrected = json.loads((tmp_path / "corrected.json").read_text())["training"]
    assert corrected == f"phases 1, 2 and 3; 3 of 3 steps of phase 2, averaged; begun with longer: {card['training']}"

    save_checkpoint(model, network, made | {"digests": {"start": "sha256:0"}})
    with pytest.raises(SohesError, match=r"small\.safetensors is not the model that the training began with"):
        release(model, params=params_file, out=tmp_path / "again.safetensors")


def test_weights_too_large_for_half_precision_are_refused(instructed, params_file, tmp_path):
    model, network = instructed
    with torch.no_grad():
        next(network.parameters()).fill_(1e6)
    save_checkpoint(model, network, {"phase": "instruct"})
    with pytest.raises(SohesError, match=r"weights above 65504.*cannot be halved"):
        release(model, params=params_file, out=tmp_path / "small.safetensors")
    assert not (tmp_path / "small.safetensors").exists()
