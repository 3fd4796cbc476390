from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from sohes.backbone.build import build_backbone
from sohes.backbone.checkpoint import save_backbone
from sohes.commands.calibrate import calibrate
from sohes.data.store.images import ImageStore
from sohes.errors import SohesError
from sohes.explore.local import square
from sohes.explore.maps import make_extractor, map_extractors
from sohes.explore.merge.tree import merge_tree, merges_before
from sohes.params import Params, load_params
from sohes.stages import pull

COMMENTED = "theta_merge: [0.9, 0.5, 0.1]  # a sentence that stays"


@pytest.fixture
def file(tiny_params: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a project whose images are pulled and whose backbone is made: tokens, fused features and colour."""
    colour = {"features": "handmade", "theta_merge": [0.5, 0.2]}
    tiny_params["explore"] |= {"features": "tokens", "also": [{"features": "fused", "theta_merge": [0.3, 0.2]}, colour]}
    params = Params.model_validate(tiny_params)
    monkeypatch.chdir(tmp_path)
    save_backbone(build_backbone(params.backbone), tmp_path / "models/backbone.safetensors", {})
    pull.run(params, tmp_path)
    file = tmp_path / "params.yaml"
    text = yaml.safe_dump(tiny_params, sort_keys=False)
    (old,) = re.findall(r"(?m)^  theta_merge:\n(?:  - .*\n)+", text)
    file.write_text(text.replace(old, f"  {COMMENTED}\n"))
    assert len(load_params(file).explore.theta_merge) == 3
    return file


def test_as_many_regions_are_left_as_asked_for(file):
    calibrate(images=8, most=12, least=3, params=file)
    explore, root = load_params(file).explore, file.parent
    store = ImageStore(root / "data/images")
    extractors = map_extractors(make_extractor(explore, root / "models/backbone.safetensors"), explore)
    views = [square(store.read(int(image)), 64) for image in store.image_ids]
    for of_map, extract, numbers in zip(explore.maps[:2], extractors, ([12, 6, 3], [12, 3]), strict=False):
        trees = [merge_tree(extract([view])[0]) for view in views]
        left = np.mean([tree.num_leaves - merges_before(tree, of_map.theta_merge) for tree in trees], axis=0)
        np.testing.assert_allclose(left, numbers, rtol=0.35)


def test_params_may_lie_elsewhere_than_the_project(file):
    other = file.parent / "params/other.yaml"
    other.parent.mkdir()
    file.rename(other)
    before = load_params(other).explore.theta_merge
    calibrate(images=4, most=12, least=3, params=other)
    assert load_params(other).explore.theta_merge != before


def test_only_thresholds_of_the_backbone_change(file, capsys):
    before = file.read_text()
    calibrate(images=4, most=12, least=3, dry_run=True, params=file)
    assert file.read_text() == before
    calibrate(images=4, most=12, least=3, params=file)
    after = file.read_text()
    assert "# a sentence that stays" in after
    old, new = (Params.model_validate(yaml.safe_load(text)) for text in (before, after))
    assert new.explore.theta_merge != old.explore.theta_merge
    assert new.explore.also[0]["theta_merge"] != old.explore.also[0]["theta_merge"]
    assert new.explore.also[1] == old.explore.also[1]
    assert "explore.also[1].theta_merge: as it is" in capsys.readouterr().out
    again = file.read_text()
    calibrate(images=4, most=12, least=3, params=file)
    assert file.read_text() == again  # the same twice


def test_colour_alone_is_fitted_if_there_is_nothing_else(file):
    values = yaml.safe_load(file.read_text())
    values["explore"] |= {"features": "handmade", "also": []}
    file.write_text(yaml.safe_dump(values))
    (file.parent / "models/backbone.safetensors").unlink()
    calibrate(images=4, most=12, least=3, params=file)
    assert load_params(file).explore.theta_merge != (0.9, 0.5, 0.1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"most": 3, "least": 3}, "--most must be above --least (got 3 and 3)"),
        ({"most": 10**6}, "explore.theta_merge: a map of 16 patches has no 1000000 regions: lower --most"),
    ],
)
def test_numbers_that_cannot_be_are_refused(file, options, sentence):
    before = file.read_text()
    with pytest.raises(SohesError, match=re.escape(sentence)):
        calibrate(**{"images": 2, "most": 12, "least": 3, "params": file, **options})
    assert file.read_text() == before


def test_what_comes_first_is_named(file):
    (file.parent / "models/backbone.safetensors").unlink()
    with pytest.raises(SohesError, match="run `sohes backbone` first"):
        calibrate(images=4, most=12, least=3, params=file)
