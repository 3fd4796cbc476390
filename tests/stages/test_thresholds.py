import json

import pytest
from rich.console import Console

from sohes.errors import SohesError
from sohes.params import Params
from sohes.stages import backbone, explore, instruct, pull, thresholds


def test_table_3_comes_from_one_command_and_leaves_the_models_alone(tiny_params, tmp_path, monkeypatch):
    monkeypatch.setenv("SOHES_WORKERS", "1")
    # after three steps nobody is sure of anything: all but the surest masks pass the lower of two low thresholds
    tiny_params["correct"] |= {"theta_score_small": 0.0, "theta_score_large": 0.3}
    params = Params.model_validate(tiny_params)
    with pytest.raises(SohesError, match="run `sohes pull` first"):
        thresholds.run(params, tmp_path, fixed=0.3)
    for stage in (pull, backbone, explore, instruct):
        stage.run(params, tmp_path)
    models = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()}
    console = Console(width=160, record=True)
    rows = thresholds.run(params, tmp_path, fixed=0.3, parent_crops=1, console=console)
    assert [row["phase"] for row in rows] == [
        "phase 2", "fixed threshold", "dynamic threshold", "dynamic, parent crops",
    ]  # fmt: skip
    fixed, dynamic = rows[1], rows[2]
    assert dynamic["teacher_masks_S"] >= fixed["teacher_masks_S"]
    assert rows[0]["gain"] == 0
    for row in rows[1:]:
        assert row["gain"] == pytest.approx(row["AR"] - rows[0]["AR"])
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert json.loads((tmp_path / "metrics/thresholds.json").read_text()) == rows
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "models").iterdir()} == models
    lines = console.export_text().splitlines()
    assert sum("measured here" in line for line in lines) == 4
    assert sum("published, on SA-1B" in line for line in lines) == 3
