import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from vits import FAMILIES, small_backbone

from sohes.backbone.checkpoint import load_backbone, save_backbone
from sohes.backbone.vit import Backbone
from sohes.errors import SohesError

torch.set_num_threads(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_is_built_again_without_the_hub(tmp_path, family):
    torch.manual_seed(0)
    backbone = Backbone(*FAMILIES[family]).eval()
    path = tmp_path / "backbone.safetensors"
    save_backbone(backbone, path, {"pretrained": "train", "steps": 3})
    card = json.loads(path.with_suffix(".json").read_text())
    assert (card["pretrained"], card["steps"], card["embed_dim"]) == ("train", 3, 24)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.json", "backbone.safetensors"]
    again = load_backbone(path).eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.tokens(images), backbone.tokens(images))
    assert (again.mean, again.std) == (backbone.mean, backbone.std)


def _saved(folder: Path) -> Path:
    path = folder / "backbone.safetensors"
    save_backbone(small_backbone(), path, {})
    return path


def test_loading_nothing_says_what_to_run(tmp_path):
    with pytest.raises(SohesError, match="run `sohes backbone` first"):
        load_backbone(tmp_path / "backbone.safetensors")


def test_weights_that_are_not_their_cards_are_refused(tmp_path):
    path = _saved(tmp_path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(SohesError, match="not the file that its card describes"):
        load_backbone(path)


def test_a_card_of_another_architecture_is_one_sentence(tmp_path):
    path = _saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    card["arguments"]["depth"] = 3
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(SohesError, match=r"does not fit its card .*: run `sohes backbone` again") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"architecture": "vit"}'])
def test_a_file_that_is_no_card_is_one_sentence(tmp_path, text):
    path = _saved(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(SohesError, match=r"backbone\.json is damaged .*: run `sohes backbone` again"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"architecture": "vit_of_tomorrow"},
            r"timm .* cannot build vit_of_tomorrow with .*: name another architecture",
        ),
        ({"arguments": None}, r"backbone\.json is damaged \(its arguments are None\): run `sohes backbone` again"),
    ],
)
def test_a_card_that_this_timm_cannot_follow_is_one_sentence(tmp_path, changes, sentence):
    path = _saved(tmp_path)
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    with pytest.raises(SohesError, match=sentence):
        load_backbone(path)
