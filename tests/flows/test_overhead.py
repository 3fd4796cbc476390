import pytest

from flows.overhead import measure, overheads
from sohes.errors import SohesError


def test_a_stage_is_charged_with_all_time_in_which_none_of_its_commands_ran():
    notes = [("first", "", 0.0, 1.0), ("second", "", 3.0, 5.0), ("third", "", 6.0, 7.0)]
    assert overheads(notes, bare=0.5) == (1.5, None)  # 2 seconds before the second, 1 before the third


def test_a_shard_is_charged_with_its_part_of_the_array_beyond_the_bare_command():
    array = [("second", str(n), 2.0 + n, 2.5 + n) for n in range(4)]  # from 2.0 to 5.5
    notes = [*reversed(array), ("second", "", 6.0, 6.5), ("first", "", 0.0, 1.0)]
    stage, shard = overheads(notes, bare=0.5)
    assert stage == 1.5  # 1.0 before the array and 0.5 after it
    assert shard == 3.5 / 4 - 0.5


@pytest.mark.parametrize(
    ("options", "words"), [({"launch": "kubernetes"}, "name local or slurm"), ({"shards": 0}, "one at least")]
)
def test_what_it_cannot_measure_is_refused(repository, monkeypatch, options, words):
    monkeypatch.chdir(repository)
    with pytest.raises(SohesError, match=words):
        measure(**options)


@pytest.mark.slow
def test_it_measures_the_real_flow_on_this_machine(repository, monkeypatch):
    monkeypatch.chdir(repository)
    result = measure(launch="local", shards=2)
    assert set(result) == {"name", "bare_shard_seconds", "local_stage_overhead_seconds", "local_shard_overhead_seconds"}
    assert result["local_stage_overhead_seconds"] > 0
