from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from packing import make_evaluated

from sohes.bench.viewer import chromium
from sohes.data.store.decode import decode_image
from sohes.errors import SohesError
from sohes.evaluate import examples
from sohes.evaluate.figures import read_details
from sohes.params import Params
from sohes.project import Project
from sohes.stages import report


def look_at_the_switch(project: Project, params: Params) -> None:
    """What recall counts is shown at first, and all masks if a person asks for them."""
    (best, *_) = examples.examples(project, read_details(project), params.report.pictures)
    given = [panel.caption for panel in examples.given(best)]
    matched = [panel.caption for panel in examples.matched(best, max_masks=params.evaluate.max_masks)]
    strongest = [panel.caption for panel in examples.strongest(best)]
    assert len({*given, *matched, *strongest}) == 2 + 3 + 3
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 390, "height": 800})
            page.goto(project.report.as_uri())
            captions = page.locator(".photo").first.locator("figcaption:visible")
            assert captions.all_inner_texts() == given + matched
            page.get_by_label("all masks").check()
            assert captions.all_inner_texts() == given + strongest
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
    except SohesError as error:
        pytest.skip(str(error))


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
def test_a_model_is_as_label_free_as_its_labels_and_its_backbone(
    tmp_path: Path, tiny_params: dict, labels, backbone, words
) -> None:
    for path, content in (("data/pseudo_labels/manifest", {"label_free": labels}), ("models/backbone", backbone)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / f"{path}.json").write_text(json.dumps(content))
    assert report._label_free(Params.model_validate(tiny_params), tmp_path) == words


def test_the_page_is_made_of_what_dvc_watches_and_of_recorded_figures(
    tiny_params, tiny_model, tmp_path, tmp_path_factory, repository, monkeypatch
):
    monkeypatch.setenv("SOHES_WORKERS", "1")
    params = Params.model_validate(tiny_params)
    project = make_evaluated(tmp_path, params, tiny_model)
    regions = json.loads(project.metrics("regions").read_text())
    assert regions["images"] == 4  # all that are held out, in one shard or several
    assert len(regions["thresholds"]) == len(regions["regions_per_image"])
    assert max(regions["regions_per_image"]) > 1
    report.run(params, tmp_path)
    page = project.report.read_text()
    assert "figure 8" in page
    for kind in ("matched", "strongest"):
        rows, columns, _ = decode_image(project.mosaic(kind).read_bytes(), max_megapixels=9, apply_exif=False).shape
        assert columns == 5 * 320 + 4 * 8  # the photograph, the truth and three phases, at a size for a person
        assert rows > 2 * 320
    look_at_the_switch(project, params)

    declared = yaml.safe_load((repository / "dvc.yaml").read_text())["stages"]["report"]["deps"]
    alone = tmp_path_factory.mktemp("alone")
    for dep in declared:
        source, target = tmp_path / dep, alone / dep
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    assert not (alone / ".sohes").exists()
    report.run(params, alone)
    assert Project(alone).report.read_text() == page

    Project(alone).metrics("regions").write_text(json.dumps(regions | {"regions_per_image": [], "images": 0}))
    report.run(params, alone)  # a peer of phase 1 merges nothing
    assert "figure 8" not in Project(alone).report.read_text()

    shutil.rmtree(Project(alone).truth)
    shutil.rmtree(Project(alone).reports)
    details = read_details(project)
    for row in details.values():
        row.pop("per_image")
    Project(alone).metrics("evaluate_details").write_text(json.dumps(details))
    report.run(params, alone)  # without a ground truth, nothing is found or missed
    assert 'type="radio"' in page
    assert 'type="radio"' not in Project(alone).report.read_text()
    assert not Project(alone).mosaic("matched").exists()
    assert Project(alone).mosaic("strongest").exists()
