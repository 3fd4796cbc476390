import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint, save_checkpoint
from sohes.model.network import Segmenter
from sohes.params import AdapterParams, CascadeParams, ModelParams

MODEL = ModelParams(
    image_size=64, hidden_dim=16, num_queries=21, queries="grid", num_heads=2, feedforward_dim=32,
    pixel_decoder_layers=1, decoder_layers=1, adapter=AdapterParams(interactions=1, stem_dim=8, num_heads=2, points=2),
    recompute_blocks=False, head="mask2former",
    cascade=CascadeParams(ious=(0.5,), proposals=10, samples=8, anchor_scale=4, nms_iou=0.7, theta_cover=0.9),
)  # fmt: skip


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 64}
    return Segmenter(Backbone("vit_tiny_patch16_224", shape), MODEL).eval()


@pytest.fixture
def saved(segmenter, tmp_path):
    path = tmp_path / "models/instruct.safetensors"
    save_checkpoint(path, segmenter, {"phase": "instruct", "metrics": {"loss": 1.5}})
    return path


def test_a_segmenter_comes_back_with_its_card(segmenter, saved):
    loaded, card = load_checkpoint(saved)
    assert loaded.params == MODEL
    assert card["phase"] == "instruct"
    assert card["metrics"] == {"loss": 1.5}
    assert card["parameters"] == sum(p.numel() for p in segmenter.parameters())
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images).mask_logits_BQhw, segmenter(images).mask_logits_BQhw)


def test_a_missing_file_names_the_stage_to_run(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(
        SohesError, match=r"the card .*instruct\.json beside instruct\.safetensors is missing: run `sohes"
    ):
        load_checkpoint(saved)
    saved.unlink()
    with pytest.raises(SohesError, match=r"no model at .*instruct\.safetensors: run `sohes instruct` first"):
        load_checkpoint(saved)


def test_a_model_from_elsewhere_is_named_as_it_was_given(saved, tmp_path):
    lone = saved.rename(tmp_path / "lone.safetensors")
    with pytest.raises(
        SohesError, match=r"the card .*lone\.json beside lone\.safetensors is missing: copy the weights"
    ):
        load_checkpoint(lone)
    for name in ("photo.jpg", "photo.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(SohesError, match=rf"{name} is not a \.safetensors model: name one"):
            load_checkpoint(tmp_path / name)
    for folder in (Path(), tmp_path):
        with pytest.raises(SohesError, match=r"is not a \.safetensors model"):
            load_checkpoint(folder)


def test_damaged_weights_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(SohesError, match="is not the file that its card describes: run `sohes instruct` again"):
        load_checkpoint(saved)


def edit(saved, **changes):
    card_path = saved.with_suffix(".json")
    card_path.write_text(json.dumps(json.loads(card_path.read_text()) | changes))


def test_a_card_that_is_none_is_refused(saved):
    whole = json.loads(saved.with_suffix(".json").read_text())
    of_vit = 3, {}, whole["backbone"] | {"arguments": None}
    for text in ("", "{", "[]", "{}", "3", *(json.dumps(whole | {"backbone": wrong}) for wrong in of_vit)):
        saved.with_suffix(".json").write_text(text)
        with pytest.raises(SohesError, match=r"instruct\.json is damaged \(.*\): run `sohes instruct` again"):
            load_checkpoint(saved)


def test_a_card_with_unknown_params_names_the_key(saved):
    edit(saved, model=MODEL.model_dump(mode="json") | {"novelty": 3})
    with pytest.raises(SohesError, match=r"does not fit this program at model\.novelty"):
        load_checkpoint(saved)


def test_weights_of_another_shape_are_refused_in_one_line(saved):
    edit(saved, model=MODEL.model_dump(mode="json") | {"hidden_dim": 32})
    with pytest.raises(SohesError, match="does not fit its card") as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)
    edit(saved, model=MODEL.model_dump(mode="json") | {"decoder_layers": 2})
    with pytest.raises(SohesError, match=r"does not fit its card \(Missing key"):
        load_checkpoint(saved)
