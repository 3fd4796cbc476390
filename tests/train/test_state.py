import errno
import os

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


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def beginning(data: bytes) -> bytes:
    return data[:200]


def other_name(data: bytes) -> bytes:
    return data.replace(b"fingerprint", b"fingerprinz")


def no_text(data: bytes) -> bytes:
    return data.replace(b"fingerprint", b"finger\xffrint")


def empty(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [half, beginning, other_name, no_text, empty])
def test_a_damaged_state_is_set_aside_with_a_message(tmp_path, capsys, damage):
    state = ResumableState(tmp_path, "f")
    state.begin("run-1")
    for _ in range(2):  # one such file is kept
        state.save({"step": 3, "weights": torch.arange(3000.0)})
        damaged = damage((tmp_path / "state.pt").read_bytes())
        (tmp_path / "state.pt").write_bytes(damaged)
        assert ResumableState(tmp_path, "f", may_write=False).load() is None
        assert state.load() is None
        assert (tmp_path / "state-damaged.pt").read_bytes() == damaged
        said = capsys.readouterr().err
        assert "the saved training state cannot be read" in said
        assert f"it is set aside as {tmp_path / 'state-damaged.pt'}" in said
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "state-damaged.pt"}
    assert state.run_id == "run-1"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 8 bytes from file <state.pt>: Cannot allocate memory (12)"),
    ],
)
@pytest.mark.parametrize("may_write", [True, False])
def test_what_the_machine_is_at_fault_for_costs_no_state(tmp_path, monkeypatch, capsys, error, may_write):
    ResumableState(tmp_path, "f").save({"step": 3})
    state = ResumableState(tmp_path, "f", may_write=may_write)
    with monkeypatch.context() as patched:

        def fail(*_, **__):
            raise error

        patched.setattr(torch, "load", fail)
        with pytest.raises(type(error)) as caught:
            state.load()
    assert caught.value is error
    assert capsys.readouterr().err == ""
    assert state.load()["step"] == 3


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
