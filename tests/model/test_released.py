import json
import tomllib
from pathlib import Path

import pytest

from infra.release import FACTS
from sohes.data.scenes.render import render_scene
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint
from sohes.model.released import FOLDER, NAME, evaluate_of, model_file, read_card

SMALL = model_file(NAME)


def test_the_released_model_is_small_and_part_of_the_package(repository):
    assert SMALL.stat().st_size < 20e6
    patterns = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["sohes"]
    packed = {path.name for pattern in patterns for path in (repository / "sohes").glob(pattern)}
    assert packed >= {"small.safetensors", "small.json"} == {path.name for path in FOLDER.iterdir()}


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


def test_it_is_loaded_by_name_with_the_numbers_of_its_card(repository):
    import sohes

    model = sohes.load("small")
    assert model.params == evaluate_of(SMALL)
    assert set(model.segment(render_scene(0, size=96, seed=0).image_HW3).found.sources) == {"small"}
    assert sohes.load(params=repository / "params.yaml").params != model.params
