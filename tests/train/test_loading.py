import pytest

from sohes.errors import SohesError
from sohes.train import loading
from sohes.train.loading import from_epochs, positions, stage_seed


@pytest.mark.parametrize("kept", [5, 6])
def test_every_epoch_shows_every_image_once_in_another_order(monkeypatch, kept):
    """Whether the order is kept in memory or computed."""
    monkeypatch.setattr(loading, "KEPT", kept)
    loading._epoch_order.cache_clear()
    shown = [next(from_epochs(place, 5, 0)) for place in range(20)]
    epochs = [shown[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert shown != [next(from_epochs(place, 5, 1)) for place in range(20)]


def test_an_image_that_cannot_be_used_is_followed_by_the_rest_of_its_epoch():
    for place in range(5):
        assert sorted(from_epochs(place, 5, 0)) == [0, 1, 2, 3, 4]


def test_every_stage_draws_from_a_seed_of_its_own():
    stages = ["backbone", "instruct", "correct", "downstream"]
    assert len({stage_seed(seed, stage) for seed in (0, 1) for stage in stages}) == 8


def test_processes_and_parts_share_a_step_without_overlap():
    def of_rank(rank):
        return list(positions(start=2, steps=4, batch_size=12, accumulate=3, rank=rank, world_size=2))

    assert [len(part) for part in of_rank(0)] == [2] * 6
    together = sorted(p for rank in (0, 1) for part in of_rank(rank) for p in part)
    assert together == [(step, k) for step in (2, 3) for k in range(12)]
    with pytest.raises(SohesError, match="batch of 12 images cannot be cut into 5"):
        next(positions(start=0, steps=1, batch_size=12, accumulate=5, rank=0, world_size=1))
