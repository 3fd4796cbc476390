"""What `evaluate` says of a ground truth that cannot score anything."""

from unittest.mock import MagicMock

import numpy as np
import pytest

from sohes.data.store.labels import iter_records, write_shard
from sohes.errors import SohesError
from sohes.evaluate.figures import read_rows
from sohes.masks import empty_mask_set, mask_set
from sohes.params import Params
from sohes.project import Project
from sohes.stages import evaluate, pull
from sohes.structures import CROWD, ImageRecord
from sohes.work.sharded import ShardedWork


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


def test_a_row_says_with_how_many_masks_it_was_scored(project, tmp_path):
    params, project = project
    evaluated = params.evaluate.model_copy(update={"max_masks": 7})
    truth = list(iter_records(project.truth))
    write_shard(tmp_path / "found.parquet", truth)
    facts = [{"images": len(truth), "masks": 1, "seconds": 1.0}]
    work = MagicMock(shards=[0], **{"path.return_value": tmp_path / "found.parquet", "facts.return_value": facts})
    params = params.model_copy(update={"evaluate": evaluated})
    evaluate._finish({"explore": work}, params, project.root, MagicMock())
    (row,) = read_rows(project).values()
    assert row["AR"] > 0
    assert row["max_masks"] == 7


def test_one_phase_that_ends_leaves_the_finished_shards_of_another(project):
    params, project = project
    works = {phase: ShardedWork(project.state("evaluate") / f"{phase}-1", [[1]]) for phase in ("explore", "instruct")}
    for work in works.values():
        truth = list(iter_records(project.truth))
        write_shard(work.path(0, ".parquet"), truth)
        work._finish((0, [1]), {"images": len(truth), "masks": 1, "seconds": 1.0})
    evaluate._finish({"explore": works["explore"]}, params, project.root, MagicMock())
    assert list(project.state("evaluate").iterdir()) == [works["instruct"].folder]
    assert works["instruct"].missing() == []
