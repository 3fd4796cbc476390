"""Both tasks end to end on tiny scenes and on real photographs, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sohes.commands import downstream
from sohes.downstream.run import Outcome
from sohes.errors import SohesError
from sohes.params import Params


@pytest.fixture
def params(tiny_params: dict) -> Params:
    tiny_params["downstream"] |= {"image_size": 64, "detection_dim": 16, "steps": 3, "batch_size": 2}
    tiny_params["downstream"]["checkpoint_every"] = 2
    return Params.model_validate(tiny_params)


@pytest.fixture
def root(tiny_model: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a project with a model and the backbone that it started from."""
    from sohes.backbone.checkpoint import save_backbone
    from sohes.model.checkpoint import load_checkpoint

    save_backbone(load_checkpoint(tiny_model)[0].backbone, tiny_model.with_name("backbone.safetensors"), {})
    root = tiny_model.parents[1]
    (root / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    monkeypatch.chdir(root)
    return root


def test_scenes_both_tasks_and_a_second_call_trains_nothing(root, monkeypatch):
    told = downstream.downstream()
    rows = json.loads((root / "metrics/downstream.json").read_text())
    assert [(row["task"], row["data"], row["classes"], row["images"]) for row in rows] == [
        ("semantic", "scenes", 12, 4),
        ("detection", "scenes", 12, 4),
    ]
    assert all(row["before"] == row["after"] for row in rows)  # the same ViT, the same seeds
    assert 0 < rows[0]["before"] < 100
    assert "| semantic | scenes, measured here | mean IoU |" in told
    assert "published" not in told
    assert not [path for path in (root / ".sohes/downstream").iterdir() if path.is_dir()]  # no state is left

    def never(*_: object, **__: object) -> None:
        raise AssertionError("what is finished is trained again")

    monkeypatch.setattr("sohes.downstream.run.train", never)
    assert downstream.downstream() == told
    monkeypatch.setattr("sohes.downstream.run.code_digest", lambda *_: "of edited code")
    with pytest.raises(AssertionError, match="trained again"):
        downstream.downstream()


def test_what_began_with_another_model_is_compared_with_its_vit(root, params, tiny_model):
    """Not with the backbone that has found the pseudo-labels, here of another width."""
    from sohes.backbone.checkpoint import save_backbone
    from sohes.backbone.vit import Backbone
    from sohes.downstream.run import find_backbones

    vit = Backbone("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3})
    save_backbone(vit, root / "models/backbone.safetensors", {})
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["instruct"] |= {"start": str(tiny_model), "backbone_of_start": True}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    assert find_backbones(params, root)["before"] == root / "models/backbone.safetensors"
    downstream.downstream()
    assert all(row["before"] == row["after"] for row in json.loads((root / "metrics/downstream.json").read_text()))


def test_it_is_recorded_in_mlflow_with_the_params_that_it_reads(root, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    downstream.downstream()
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = [run for run in client.search_runs(experiments) if run.info.run_name == "downstream"]
    assert (run.info.status, run.data.params["downstream.steps"]) == ("FINISHED", "3")
    assert {"semantic/before", "detection/after"} <= set(run.data.metrics)


def test_real_photographs(root, shared_data, tmp_path):
    sample = shared_data / "coco_panoptic_100"
    content = json.loads((sample / "panoptic.json").read_text())
    content["images"] = content["images"][:6]
    few = tmp_path / "few"
    few.mkdir()
    (few / "panoptic.json").write_text(json.dumps(content))
    for name in ("panoptic", "images"):
        (few / name).symlink_to(sample / name)
    told = downstream.downstream(semantic=f"coco_panoptic={few}")
    assert told.count("\n") == 3
    (row,) = json.loads((root / "metrics/downstream.json").read_text())
    assert (row["train_images"], row["images"], row["classes"]) == (3, 3, 133)


def test_the_papers_figures_stand_beside_its_own_tasks():
    told = downstream.table([Outcome("detection", "coco", 80, 118287, 5000, before=1.0, after=2.5)])
    lines = told.splitlines()
    assert lines[2] == "| detection | coco, measured here | AP of boxes | 1.0 | 2.5 | +1.5 |"
    assert lines[3] == "| detection | coco, published: SOHES, ICLR 2024, figure 6 | AP of boxes | 22.7 | 24.4 | +1.7 |"


def test_what_is_missing_is_one_sentence(root, tmp_path):
    with pytest.raises(SohesError, match="no data set for detection is called ade20k"):
        downstream.downstream(detection="ade20k=somewhere")
    (root / "models/correct.safetensors").unlink()
    with pytest.raises(SohesError, match="run `sohes correct` first"):
        downstream.downstream()
