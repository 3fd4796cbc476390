from __future__ import annotations

import io
import re
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest
import yaml

from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.commands import ablate_photographs as photographs
from sohes.errors import SohesError
from sohes.explore.refine.network import RELEASES
from sohes.params import Params, load_params


@pytest.fixture
def params(tiny_params: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of `mine.yaml`, with a small backbone beside it and no refiner's weights anywhere."""
    params = Params.model_validate(tiny_params)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tiny_params))
    save_backbone(build_backbone(params.backbone), tmp_path / "models/backbone.safetensors", {})
    for release in RELEASES.values():
        monkeypatch.setenv(release.variable, "~/nowhere")
    return params


def page(tmp_path: Path, repository: Path, *benchmarks: str) -> list[str]:
    """Its tables, as they are printed."""
    with redirect_stdout(io.StringIO()) as told, chdir(repository):
        photographs.ablate_photographs(
            list(benchmarks), params=tmp_path / "mine.yaml", backbone=tmp_path / "models/backbone.safetensors",
            images=1, out=tmp_path / "page.md",
        )  # fmt: skip
    return re.split("^(?=## )", told.getvalue(), flags=re.MULTILINE)[1:]


def rows(part: str) -> list[str]:
    return [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("| ")]


def test_every_step_and_switch_has_its_row_on_the_page(shared_data, params, tmp_path, repository) -> None:
    handmade, backbone = page(tmp_path, repository, f"coco_panoptic={shared_data / 'coco_panoptic_100'}")
    steps = ["theta 0.1", "theta 0.6", "mixed with NMS", "local re-clustering", "refined", "dense CRF"]
    switches = ["all regions looked at again", "stability over 0.1"]
    assert set(steps + switches) <= set(rows(handmade)) & set(rows(backbone))
    assert "no refiner" not in rows(handmade)  # the same as without the last step
    assert {"keys", "values", "keys, recalibrated", "tokens, recalibrated"} <= set(rows(backbone)) - set(rows(handmade))
    assert rows(handmade)[-7:] == ["0.6", "0.7", "0.8", "0.85", "0.9", "0.95", "1"]
    text = (tmp_path / "page.md").read_text()
    assert handmade.strip() in text
    assert backbone.strip() in text
    made_by = f"--backbone {tmp_path}/models/backbone.safetensors --params {tmp_path}/mine.yaml --images 1 --out"
    assert made_by in text
    for part in (handmade, backbone):  # a row that cannot be computed is named, with the remedy
        assert "Left out, `CRM`: CRM's weights are not at ~/nowhere: fetch" in part
        assert "Left out, `CascadePSP`: " in part
    for line in handmade.splitlines():
        if line.startswith("| refined"):
            assert line.split("|")[8].strip() == ""  # no difference from itself


def test_the_baseline_has_its_row_though_another_sets_the_same(params, tmp_path, repository) -> None:
    explore = params.explore.model_copy(update={"refiner": "none"})
    rows, baseline = photographs._rows_of(photographs.DEFAULT_TABLES, repository)
    settings, _ = photographs._settings("handmade", rows, explore, tmp_path, baseline)
    assert settings[baseline][1].refiner == "none"
    assert "local re-clustering" in settings
    assert "no refiner" not in settings
    assert len({id(extract) for extract, _ in settings.values()}) == 1


MINE = """
title: Maps
source: this test
phase: explore
baseline: colour
rows:
  colour: {set: {}}
  tokens: {set: {explore.features: tokens}}
  both: {set: {explore.also: [{features: tokens}]}}
"""


def test_rows_of_another_table_change_the_params_as_they_are(
    shared_data, params, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params/ablations").mkdir(parents=True)
    (tmp_path / "params/ablations/mine.yaml").write_text(MINE)
    photographs.ablate_photographs(
        [f"bsds500={shared_data / 'bsds500_val'}"],
        params=Path("mine.yaml"),
        images=1,
        table=["mine"],
        out=Path("page.md"),
    )
    (part,) = re.split("^(?=## )", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    assert part.startswith("## bsds500\n")
    assert rows(part)[:4] == ["setting", "colour", "tokens", "both"]
    found = [float(line.split("|")[6]) for line in part.splitlines()[4:7]]  # masks an image
    assert found[2] > max(found[:2])  # both maps' masks
    page = Path("page.md").read_text()
    assert page.startswith("# Phase 1 on photographs: mine\n")
    assert " --table mine`: the first 1 annotated" in page


def test_the_table_of_feature_maps_fits_the_photographs_profile(repository) -> None:
    explore = load_params(repository / "params/photographs.yaml").explore
    rows, baseline = photographs._rows_of(["maps"], repository)
    settings = {name: photographs.changed(explore, changes) for name, changes in rows.items()}
    assert [name for name, params in settings.items() if params == explore] == [baseline]
    by_map = {(one.features, one.block, one.theta_merge, one.nms_iou) for one in explore.maps[1:]}
    for name in ("tokens of the fourth block from the end", "tokens of the last block"):  # as in the profile's `also`
        one = settings[name]
        assert (one.features, one.block, one.theta_merge, one.nms_iou) in by_map
    colour, (*_, of_profile) = settings["colour, all regions looked at again"], explore.maps
    assert colour.model_copy(update={"block": of_profile.block}) == of_profile


def test_what_cannot_work_is_said(params, tmp_path, repository) -> None:
    with pytest.raises(SohesError, match="is given as NAME=DIR"):
        page(tmp_path, repository, "coco_panoptic")
    with pytest.raises(SohesError, match="no benchmark is called coca"):
        page(tmp_path, repository, "coca=.")
    with pytest.raises(SohesError, match="every row of table-6b sets something"):
        photographs._rows_of(["table-6b"], repository)
    with pytest.raises(SohesError, match=r"sets backbone.patch_size"):
        photographs.changed(params.explore, {"backbone.patch_size": 4})
    with pytest.raises(SohesError, match=r"the row that sets explore.theta_cover: theta_cover: .* \(got 2\)"):
        photographs.changed(params.explore, {"explore.theta_cover": 2})
    (tmp_path / "models/backbone.safetensors").unlink()
    with pytest.raises(SohesError, match="no backbone at"):
        page(tmp_path, repository, "coco_panoptic=.")
