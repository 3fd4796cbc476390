from __future__ import annotations

import pytest

from sohes.explore.label_free import both, in_words, of_labels, of_model
from sohes.params import Params

DINO, SUPERVISED, FILE = "vit_base_patch8_224.dino", "vit_base_patch16_224.augreg_in21k", "weights.pth"


def test_either_no_is_no_and_either_unknown_is_unknown() -> None:
    values = (True, False, None)
    table = {(one, other): in_words(both(one, other)) for one in values for other in values}
    assert table == {
        (True, True): "yes", (True, False): "no", (True, None): "unknown",
        (False, True): "no", (False, False): "no", (False, None): "no",
        (None, True): "unknown", (None, False): "no", (None, None): "unknown",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("features", "refiner", "backbone", "labels", "model"),
    [
        ("tokens", "guided", DINO, "yes", "yes"),
        ("tokens", "guided", SUPERVISED, "no", "no"),
        ("tokens", "guided", FILE, "unknown", "unknown"),
        ("tokens", "crm", DINO, "no", "no"),
        ("tokens", "crm", FILE, "no", "no"),
        ("handmade", "guided", SUPERVISED, "yes", "no"),  # the network of phase 2 starts from it
        ("handmade", "guided", FILE, "yes", "unknown"),
        ("handmade", "cascadepsp", DINO, "no", "no"),
    ],
)
def test_the_backbone_counts_where_it_is_used(tiny_params, features, refiner, backbone, labels, model) -> None:
    tiny_params["explore"] |= {"features": features, "refiner": refiner}
    claim = of_labels(Params.model_validate(tiny_params).explore, backbone)
    assert (in_words(claim), in_words(of_model(claim, backbone))) == (labels, model)


@pytest.mark.parametrize(
    ("card", "words"), [('{"label_free": true}', "yes"), ('{"label_free": false}', "no"), ("{}", "unknown")]
)
def test_the_model_that_phase_2_begins_with_counts(tmp_path, card, words) -> None:
    (tmp_path / "start.json").write_text(card)
    assert in_words(of_model(True, DINO, tmp_path / "start.safetensors")) == words
