from __future__ import annotations

import json
from pathlib import Path

import pytest

from sohes.stages import report


@pytest.mark.parametrize(
    ("labels", "backbone", "words"),
    [
        (True, {"label_free": True}, "yes"),
        (True, {"params": {"pretrained": "train"}}, "yes"),  # a card from before it said so itself
        (True, {"params": {"pretrained": "vit_base_patch16_224.augreg_in21k"}}, "no"),  # a manifest from before, too
        (True, {"label_free": None}, "unknown"),
        (None, {"label_free": True}, "unknown"),
        (False, {"label_free": None}, "no"),
    ],
)
def test_a_model_is_as_label_free_as_its_labels_and_its_backbone(tmp_path: Path, labels, backbone, words) -> None:
    for path, content in (("data/pseudo_labels/manifest", {"label_free": labels}), ("models/backbone", backbone)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / f"{path}.json").write_text(json.dumps(content))
    assert report._label_free(tmp_path) == words
