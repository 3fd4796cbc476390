"""What `evaluate` says of a ground truth that cannot score anything."""

import numpy as np
import pytest

from sohes.data.store.labels import write_shard
from sohes.errors import SohesError
from sohes.masks import empty_mask_set, mask_set
from sohes.params import Params
from sohes.project import Project
from sohes.stages import evaluate, pull
from sohes.structures import CROWD, ImageRecord


@pytest.fixture
def project(tiny_params, tmp_path, monkeypatch) -> tuple[Params, Project]:
    monkeypatch.setenv("SOHES_WORKERS", "1")
    params = Params.model_validate(tiny_params)
    pull.run(params, tmp_path)
    return params, Project(tmp_path)


@pytest.mark.parametrize("kind", ["nothing", "crowds"])
def test_a_truth_without_anything_to_find_is_an_error_before_anything_is_predicted(project, kind, monkeypatch):
    params, project = project
    monkeypatch.setattr(evaluate, "_plan", lambda *_: {})  # there are no models
    monkeypatch.setattr(evaluate, "_predict", lambda *_: pytest.fail("hours are spent for nothing"))
    found = empty_mask_set(8, 9) if kind == "nothing" else mask_set(np.ones((1, 8, 9), bool), sources=CROWD)
    for shard in project.truth.iterdir():
        write_shard(shard, [ImageRecord(1, "a.png", "", found)])
    with pytest.raises(SohesError, match=r"the ground truth in .* has no mask, so nothing can be scored"):
        evaluate.run(params, project.root)


def test_no_truth_at_all_is_told(project, capsys):
    _, project = project
    for shard in project.truth.iterdir():
        shard.unlink()
    project.truth.rmdir()
    evaluate._check_truth(project)
    assert "predicted but not scored" in capsys.readouterr().err
