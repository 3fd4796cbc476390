"""Recall of the networks in training, in one process and shared between several."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sohes.evaluate.validation import validator
from sohes.model.checkpoint import load_checkpoint
from sohes.params import Params
from sohes.project import Project
from sohes.stages import pull

NAMES = {"network": "student", "average": "teacher"}


class Process:
    """One of `size` processes, which run one after the other here: the last one sees what each has given."""

    def __init__(self, rank: int, size: int, given: dict[int, list]) -> None:
        self.rank, self.size, self.given, self.calls = rank, size, given, 0

    def gather(self, value):
        everybody = self.given.setdefault(self.calls, [])
        everybody.append(value)
        self.calls += 1
        return list(everybody)


@pytest.fixture
def params(tiny_params: dict) -> Params:
    return Params.model_validate(tiny_params)


@pytest.fixture
def project(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with its four held-out scenes pulled."""
    monkeypatch.setenv("SOHES_WORKERS", "1")
    pull.run(params, tmp_path)
    return Project(tmp_path)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_validation_that_is_shared_gives_what_one_process_gives(project, params, tiny_model, size):
    network, _ = load_checkpoint(tiny_model)
    learner = SimpleNamespace(network=network, average=network)
    alone = validator(project, params.evaluate, NAMES, Process(0, 1, {}))(learner)
    assert set(alone) == {"student/AR", "teacher/AR"}
    assert alone["student/AR"] == alone["teacher/AR"]
    assert 0 < alone["student/AR"] <= 100
    given: dict[int, list] = {}
    for rank in range(size - 1):  # of six, two have no image
        validator(project, params.evaluate, NAMES, Process(rank, size, given))(learner)
    assert validator(project, params.evaluate, NAMES, Process(size - 1, size, given))(learner) == alone


def test_without_annotations_there_is_no_validation_and_one_process_says_so(params, tmp_path, capsys):
    for rank in range(2):
        assert validator(Project(tmp_path), params.evaluate, NAMES, Process(rank, 2, {})) is None
    assert capsys.readouterr().err.count("no validation while training") == 1
