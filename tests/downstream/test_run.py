from __future__ import annotations

import pytest
import torch

from sohes.downstream import run
from sohes.downstream.run import Task, find_backbones, measure
from sohes.downstream.sets.examples import ClassSet
from sohes.params import load_params
from sohes.project import Project
from sohes.train.world import World
from sohes.work.files import write_json
from sohes.work.identity import source_files


def test_a_figure_depends_on_all_code_that_trains_and_scores():
    rooms = ("downstream.probes", "downstream.scores", "downstream.sets.coco", "data.scenes.render", "model.adapter")
    assert {f"sohes.{name}" for name in rooms} <= set(source_files(["sohes.downstream.run"]))
    assert "sohes.evaluate.tables" not in source_files(["sohes.downstream.run"])


class Silent:
    def metrics(self, values, step=None):
        pass


class Trains(Exception):
    pass


class Second(World):
    """A process beside another one, which has found `finds`."""

    finds: float | None

    def of_first(self, make):
        return self.finds


@pytest.mark.parametrize("found_here", [True, False])
@pytest.mark.parametrize("found_by_first", [True, False])
def test_all_processes_train_or_none(tmp_path, repository, monkeypatch, found_here, found_by_first):
    params = load_params(repository / "params.yaml")
    task = Task("semantic", "drawn", ClassSet(("a",), [0], [0], None))
    path = tmp_path / "vit.safetensors"
    path.write_bytes(b"weights")

    def trains(_):
        raise Trains

    monkeypatch.setattr(run, "load_checkpoint", trains)
    if found_here:
        kept = f"semantic-before-{run._depends_on(task, path, params)}.json"
        write_json(Project(tmp_path).state("downstream") / kept, {"figure": 12.5})
    world = Second(1, 2, torch.device("cpu"))
    object.__setattr__(world, "finds", 12.5 if found_by_first else None)
    files = {"before": path, "after": path}

    def both():
        return measure([task], files, params, root=tmp_path, world=world, recorder=Silent())

    if found_by_first:
        assert [(outcome.before, outcome.after) for outcome in both()] == [(12.5, 12.5)]
    else:
        with pytest.raises(Trains):
            both()


def test_the_model_that_phase_2_begins_with_is_looked_up_in_the_project(tmp_path, repository, monkeypatch):
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / "models").mkdir(parents=True)
    for name in ("backbone", "correct", "mine"):
        (root / f"models/{name}.safetensors").touch()
        (root / f"models/{name}.json").write_text("{}")
    begun = {"instruct.start": "models/mine.safetensors", "instruct.backbone_of_start": True}
    monkeypatch.chdir(elsewhere)
    found = find_backbones(load_params(repository / "params.yaml", begun), root)
    assert found == {"before": root / "models/mine.safetensors", "after": root / "models/correct.safetensors"}
