from __future__ import annotations

import json

import pytest
import timm

from sohes.backbone.label_free import is_label_free

YES = [
    "train",
    "vit_base_patch8_224.dino",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch14_dinov2",  # timm's default tag
    "vit_base_patch14_reg4_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
    "vit_large_patch16_dinov3.sat493m",
    "vit_base_patch16_224.mae",
    "vit_huge_patch14_gap_224.in1k_ijepa",
    "hf-hub:timm/vit_base_patch16_224.dino",
]
NO = [
    "vit_base_patch16_224.augreg_in21k",
    "vit_base_patch16_224.orig_in21k_ft_in1k",
    "vit_base_patch16_224",  # timm's default is supervised
    "vit_base_patch16_224.mae_ft_in1k",  # fine-tuned with labels
    "vit_base_patch16_clip_224.openai",
    "vit_base_patch16_clip_224.laion2b",
    "vit_so400m_patch14_siglip_224.webli",
    "vit_pe_core_base_patch16_224.fb",
    "eva02_base_patch14_224.mim_in22k",  # predicts the features of CLIP
]
UNKNOWN = [
    "vit_base_patch16_dinov3_qkvb.eupe_lvd1689m",  # distilled from several models
    "vit_base_patch16_224.unheard_of",
    "hf-hub:somebody/vit_base_patch16_224.dino",
    "weights/dino.pth",
    "weights/vit_base_patch8_224.dino.safetensors",  # a file's name is no proof
    "nonsense",
]


@pytest.mark.parametrize(("names", "expected"), [(YES, True), (NO, False), (UNKNOWN, None)])
def test_a_name_says_what_trained_the_weights(names: list[str], expected: bool | None) -> None:
    assert {name: is_label_free(name) for name in names} == dict.fromkeys(names, expected)


def test_no_vit_of_timm_that_was_trained_on_classes_or_captions_is_called_label_free() -> None:
    words = ("augreg", "clip", "siglip", "_ft_", "openai", "laion", "webli", "sbb", "orig_in21k", "radio", "_pe_")
    names = [name for name in timm.list_pretrained(["vit_*", "eva*"]) if any(word in name for word in words)]
    assert len(names) > 150
    assert [name for name in names if is_label_free(name) is not False] == []


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ({"label_free": True}, True),
        ({"label_free": False, "params": {"pretrained": "train"}}, False),
        ({"label_free": None}, None),
        ({"params": {"pretrained": "vit_base_patch8_224.dino"}}, True),  # of a stage that wrote no `label_free` yet
        ({"params": {"pretrained": "vit_base_patch16_224.augreg_in21k"}}, False),
        ({"params": {"pretrained": "dino.pth"}}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_file_is_what_its_card_says(card: object, expected: bool | None, tmp_path) -> None:
    (tmp_path / "backbone.json").write_text(json.dumps(card))
    assert is_label_free(tmp_path / "backbone.safetensors") is expected


def test_a_damaged_card_says_nothing(tmp_path) -> None:
    (tmp_path / "backbone.json").write_text("{")
    assert is_label_free(str(tmp_path / "backbone.safetensors")) is None
