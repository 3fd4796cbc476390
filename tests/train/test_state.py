import pytest
import torch

from sohes.train.state import ResumableState


def test_a_state_comes_back_as_it_was(tmp_path):
    state = ResumableState(tmp_path / "s", "f")
    assert state.load() is None
    state.begin("run-1")
    state.save({"step": 3, "weights": {"a": torch.arange(3.0)}})
    again = ResumableState(tmp_path / "s", "f")
    assert again.run_id == "run-1"
    loaded = again.load()
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))
    again.remove()
    assert not (tmp_path / "s").exists()


def test_a_state_of_other_params_is_discarded_with_a_message(tmp_path, capsys):
    state = ResumableState(tmp_path, "one")
    state.begin("run-1")
    state.save({"step": 3})
    other = ResumableState(tmp_path, "two")
    assert "discarded: it was made with other params, inputs or code" in capsys.readouterr().err
    assert other.run_id is None
    assert other.load() is None


def test_a_damaged_state_is_discarded_with_a_message(tmp_path, capsys):
    state = ResumableState(tmp_path, "f")
    state.begin("run-1")
    state.save({"step": 3})
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:200])
    assert state.load() is None
    assert "discarded: it cannot be read" in capsys.readouterr().err


def test_a_process_that_may_not_write_leaves_the_folder_alone(tmp_path):
    ResumableState(tmp_path, "one").save({"step": 3})
    ResumableState(tmp_path, "one").begin("run-1")
    reader = ResumableState(tmp_path, "two", may_write=False)
    reader.begin("run-2")
    reader.save({"step": 9})
    reader.remove()
    assert reader.load() is None  # another fingerprint
    assert ResumableState(tmp_path, "one").load()["step"] == 3


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b"\x80"])
def test_a_damaged_note_of_the_run_begins_a_new_one(tmp_path, note):
    ResumableState(tmp_path, "one").begin("run-1")
    (tmp_path / "run.json").write_bytes(note)
    assert ResumableState(tmp_path, "one").run_id is None
