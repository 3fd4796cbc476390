from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sohes.backbone.vit import build_backbone, save_backbone
from sohes.params import Params
from sohes.project import Project
from sohes.stages import evaluate, explore, pull, report
from sohes.work.cost import measured


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


def evaluated(root: Path, params: Params, model: Path) -> Project:
    """A project in which everything but the report has run, with an untrained network for both trained phases."""
    project = Project(root)
    pull.run(params, root)
    explore.run(params, root)
    save_backbone(build_backbone(params.backbone), project.model("backbone"), {})
    for phase in ("instruct", "correct"):
        if project.model(phase) != model:
            shutil.copy(model, project.model(phase))
            shutil.copy(model.with_suffix(".json"), project.card(phase))
        project.metrics(phase).parent.mkdir(exist_ok=True)
        project.metrics(phase).write_text(json.dumps([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    evaluate.run(params, root)
    for stage in ("pull", "explore", "evaluate"):
        with measured(stage, params, root):
            pass
    return project


def test_the_page_is_made_of_what_dvc_watches_and_of_recorded_figures(
    tiny_params, tiny_model, tmp_path, tmp_path_factory, repository, monkeypatch
):
    monkeypatch.setenv("SOHES_WORKERS", "1")
    params = Params.model_validate(tiny_params)
    project = evaluated(tmp_path, params, tiny_model)
    regions = json.loads(project.metrics("regions").read_text())
    assert regions["images"] == 4  # all that are held out, in one shard or several
    assert len(regions["thresholds"]) == len(regions["regions_per_image"])
    assert max(regions["regions_per_image"]) > 1
    report.run(params, tmp_path)
    page = project.report.read_text()
    assert "figure 8" in page

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
