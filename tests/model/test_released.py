import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import sohes
from infra.release import FACTS
from sohes.commands.segment import choose
from sohes.data.scenes.render import render_scene
from sohes.errors import SohesError
from sohes.model import released
from sohes.model.checkpoint import load_checkpoint
from sohes.model.onnx import OnnxSegmenter
from sohes.model.released import FOLDER, NAME, evaluate_of, model_file, read_card
from sohes.work.files import digest_file

SMALL = model_file(NAME)


def test_the_released_model_is_small_and_part_of_the_package(repository):
    assert SMALL.stat().st_size < 20e6
    patterns = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["sohes"]
    packed = {path.name for pattern in patterns for path in (repository / "sohes").glob(pattern)}
    assert packed >= {"small.safetensors", "small.json", "small.onnx"} == {path.name for path in FOLDER.iterdir()}


def test_its_card_is_complete_and_names_no_place():
    network, card = load_checkpoint(SMALL)
    assert card.items() >= FACTS.items()
    assert {"training", "params", "evaluate", "figures", "label_free", "phase", "made_from"} <= card.keys()
    assert card["label_free"] is None
    assert card["parameters"] == sum(p.numel() for p in network.parameters()) == 8_655_704
    assert "/root" not in json.dumps(card)
    evaluate = evaluate_of(SMALL)
    assert evaluate is not None
    assert (evaluate.nms_iou, evaluate.tiles.levels) == (0.8, (0.6,))


def test_the_pages_tell_the_figures_of_its_card(repository):
    coco, bsds = (read_card(SMALL)["figures"][name] for name in ("coco_panoptic", "bsds500"))
    with_interval = ["{} ({} to {})".format(*of_one["AR"]) for of_one in (coco, bsds)]
    sizes = [str(coco[f"AR_{size}"][0]) for size in "SML"]
    row = " | ".join(["`small`", with_interval[0], *sizes, with_interval[1]])
    assert f"| {row} |" in (repository / "docs/released-model.md").read_text()
    assert f"| released model | {coco['AR'][0]} |" in (repository / "docs/faq.md").read_text()
    assert f"released model, a third of the size, reaches {coco['AR'][0]} " in (repository / "README.md").read_text()


def test_without_a_gpu_its_onnx_file_finds_the_same_without_torch(monkeypatch):
    """Its graph has the digest of the weights that it was made of: release it again if this fails."""
    graph = FOLDER / f"{NAME}.onnx"
    assert read_card(graph)["digest"] == read_card(SMALL)["digest"] == digest_file(SMALL)
    photo = np.asarray(Image.fromarray(render_scene(3, size=192, seed=0).image_HW3).resize((448, 448)))
    monkeypatch.setattr(released, "GPUS", ())
    of_graph = sohes.load("small")
    assert isinstance(of_graph.network, OnnxSegmenter)
    monkeypatch.setattr(released, "GPUS", (str(SMALL),))  # a file that is there
    of_torch = sohes.load("small")
    assert not isinstance(of_torch.network, OnnxSegmenter)
    (ours,), (theirs,) = (model.network.predict([photo]) for model in (of_graph, of_torch.to("cpu")))
    np.testing.assert_allclose(ours.class_Q2, theirs.class_Q2, atol=1e-3)
    inside = [logits.mask_Qhw > 0 for logits in (ours, theirs)]
    shared, either = ((op(*inside)).sum((1, 2)) for op in (np.logical_and, np.logical_or))
    iou = np.where(either > 0, shared / np.maximum(either, 1), 1)  # two empty masks are the same
    assert np.quantile(iou, 0.01) > 0.99


def test_only_its_name_means_the_released_model():
    assert model_file("small.safetensors") == Path("small.safetensors")
    assert model_file("nope") == Path("nope")


@pytest.mark.parametrize("text", ["{", "[]", "{}", None])
def test_a_card_that_says_nothing_is_left_to_loading(text, tmp_path):
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    assert read_card(tmp_path / "model.safetensors") == {}
    assert evaluate_of(tmp_path / "model.safetensors") is None


def test_numbers_that_do_not_fit_name_the_key_and_the_way_out(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"evaluate": read_card(SMALL)["evaluate"] | {"novelty": 3}}))
    with pytest.raises(SohesError, match=r"does not fit this program at evaluate\.novelty: name a params file"):
        evaluate_of(tmp_path / "model.safetensors")


def test_a_model_is_used_as_its_project_says_and_elsewhere_as_its_card_says(tiny_model, tiny_params, tmp_path):
    """From any folder, by `sohes.load` and `sohes segment` alike."""
    card = read_card(tiny_model)
    tiny_params["evaluate"]["nms_iou"] = 0.77
    tiny_model.with_suffix(".json").write_text(json.dumps(card | {"evaluate": tiny_params["evaluate"]}))

    def numbers(file: Path) -> tuple[float, float]:
        return sohes.load(file).params.nms_iou, choose(str(file), None, explore=False)["evaluate"].nms_iou

    assert numbers(tiny_model) == (0.77, 0.77)
    tiny_params["evaluate"]["nms_iou"] = 0.66  # after the training
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    assert numbers(tiny_model) == (0.66, 0.66)
    copy = tmp_path / "models/cups.safetensors"
    for end in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(end), copy.with_suffix(end))
    assert numbers(copy) == (0.77, 0.77)


def test_it_is_loaded_by_name_with_the_numbers_of_its_card(repository):
    model = sohes.load("small")
    assert model.params == evaluate_of(SMALL)
    assert set(model.segment(render_scene(0, size=96, seed=0).image_HW3).found.sources) == {"small"}
    assert sohes.load(params=repository / "params.yaml").params != model.params
