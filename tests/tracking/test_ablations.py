from __future__ import annotations

import pytest

from sohes.params import load_params
from sohes.tracking.ablations import _label_free
from sohes.work.files import write_json


@pytest.mark.parametrize("free", [True, False])
def test_the_card_of_the_model_that_phase_2_begins_with_is_read_in_the_project(tmp_path, repository, monkeypatch, free):
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_json(root / "models/mine.json", {"label_free": free})
    monkeypatch.chdir(elsewhere)
    params = load_params(repository / "params.yaml", {"instruct.start": "models/mine.safetensors"})
    assert _label_free(params, "correct", root) is free
