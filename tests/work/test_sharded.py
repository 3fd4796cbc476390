import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sohes.errors import SohesError
from sohes.work.sharded import ShardedWork


@pytest.fixture
def work(tmp_path: Path) -> ShardedWork:
    return ShardedWork(tmp_path / "state/abc", [[1, 2], [3, 4], [5]])


def make(work: ShardedWork, shard: tuple) -> dict:
    index, items = shard
    work.path(index, ".txt").parent.mkdir(parents=True, exist_ok=True)
    work.path(index, ".txt").write_text(" ".join(map(str, items)))
    return {"sum": sum(items)}


def test_a_shard_is_made_once_and_its_facts_are_kept(work):
    assert work.missing() == [0, 1, 2]
    work.run(partial(make, work), work.left(range(1, 2)), workers=1, description="test")
    assert work.missing() == [0, 2]
    assert work.left(range(1, 2)) == []
    assert work.left() == [(0, [1, 2]), (2, [5])]
    work.run(partial(make, work), work.left(), workers=1, description="test")
    assert work.facts() == [{"sum": 3}, {"sum": 7}, {"sum": 5}]
    work.redo([2])
    assert work.missing() == [2]


def test_a_shard_that_fails_is_not_finished_and_the_ones_before_it_are(work):
    def fail(shard: tuple) -> dict:
        if shard[0] == 1:
            raise OSError("the power failed")
        return make(work, shard)

    with pytest.raises(OSError, match="power"):
        work.run(fail, work.left(), workers=1, description="test")
    assert work.missing() == [1, 2]


@pytest.mark.parametrize("shard", [-1, 3])
def test_an_unknown_shard_is_refused(work, shard):
    with pytest.raises(SohesError, match=rf"^--shard must lie in 0..2 for 5 images \(got {shard}\)$"):
        work.left(range(shard, shard + 1), of="5 images")


def test_a_range_gives_its_missing_shards_and_may_reach_beyond_the_last(work):
    work.run(partial(make, work), work.left(range(1, 2)), workers=1, description="test")
    assert [index for index, _ in work.left(range(2))] == [0]
    assert [index for index, _ in work.left(range(12))] == [0, 2]
    assert [index for index, _ in work.left(range(1, 12))] == [2]
    with pytest.raises(SohesError, match=r"must lie in 0\.\.2 for 5 images \(got 3-14\)"):
        work.left(range(3, 15), of="5 images")


@pytest.mark.parametrize("workers", [1, 2, 6])
def test_the_result_does_not_depend_on_how_shards_are_spread(work, monkeypatch, workers):
    pieces = []

    def run_here(worker, shards, **_):
        pieces.extend(shards)
        return [worker(shard) for shard in shards]

    monkeypatch.setattr("sohes.work.sharded.run_shards", run_here)

    def write(path: Path, parts: list[list[int]]) -> dict:
        return {"doubled": [number for part in parts for number in part]}

    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    work.spread(double, write, work.left(), workers=workers, description="test")
    assert work.facts() == [{"doubled": [2, 4]}, {"doubled": [6, 8]}, {"doubled": [10]}]
    assert len(pieces) == (5 if workers == 6 else 3)


def test_names_are_the_callers_if_it_has_any(tmp_path):
    work = ShardedWork(tmp_path, [["a"], ["b"]], ["first", "second"])
    assert work.path(1, ".txt") == tmp_path / "second.txt"


def test_a_shard_of_other_items_is_not_finished_though_it_once_was(tmp_path):
    def of(*shards: list[int]) -> ShardedWork:
        return ShardedWork(tmp_path, list(shards), of_items=lambda items: " ".join(map(str, items)))

    def do(work: ShardedWork) -> list[int]:
        left = work.left()
        work.run(partial(make, work), left, workers=1, description="test")
        return [index for index, _ in left]

    first, then = of([1, 2], [3]), of([1, 2], [3, 4], [5])
    assert do(first) == [0, 1]
    assert do(then) == [1, 2]
    assert then.facts() == [{"sum": 3}, {"sum": 7}, {"sum": 5}]
    assert do(first) == [1]  # its files were replaced meanwhile
    (tmp_path / "parts/shard-00000.of").write_bytes(b"\xff")
    assert first.missing() == [0]


def test_a_shard_that_fails_in_place_of_another_leaves_neither(tmp_path):
    work = ShardedWork(tmp_path, [[1]], of_items=str)
    work.run(partial(make, work), work.left(), workers=1, description="test")
    other = ShardedWork(tmp_path, [[2]], of_items=str)
    with pytest.raises(ZeroDivisionError):
        other.run(lambda shard: {"sum": 1 / 0}, other.left(), workers=1, description="test")
    assert work.missing() == other.missing() == [0]


def test_removing_takes_what_other_params_have_left(work):
    stale = work.folder.parent / "def"
    stale.mkdir(parents=True)
    work.remove()
    assert not stale.parent.exists()


def test_removing_leaves_another_kind_of_work(tmp_path):
    instruct, other, correct = (
        ShardedWork(tmp_path / name, [[1]]) for name in ("instruct-1", "instruct-2", "correct-1")
    )
    for work in (instruct, other, correct):
        work.run(partial(make, work), work.left(), workers=1, description="test")
    assert instruct.others() == [other.folder]
    instruct.remove()
    assert list(tmp_path.iterdir()) == [correct.folder]
    assert correct.missing() == []


def test_it_travels_to_a_worker_without_the_items_of_all_shards(tmp_path):
    work = ShardedWork(tmp_path, [np.arange(1000)] * 1000, ["first", "second"])
    sent = pickle.dumps(partial(make, work))
    assert len(sent) < 1000
    (there,) = pickle.loads(sent).args
    assert there.path(1, ".txt") == work.path(1, ".txt")
    assert len(work.shards) == 1000
