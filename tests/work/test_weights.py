import json

import pytest
import torch
from torch import nn

from sohes.errors import SohesError
from sohes.work.weights import load_weights, read_card, save_weights


def network(width=3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, width)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "models/net.safetensors"
    save_weights(path, network(), {"seed": 7})
    return path


def edit(path, **changes) -> None:
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changes))


def test_weights_come_back_with_their_card(saved):
    assert sorted(file.name for file in saved.parent.iterdir()) == ["net.json", "net.safetensors"]
    card = read_card(saved, "again", needs=["seed"])
    assert (card["seed"], card["version"]) == (7, 1)
    other = nn.Linear(2, 3)
    load_weights(saved, other, "again")
    assert torch.equal(other.weight, network().weight)


def test_the_same_weights_are_the_same_bytes_for_whoever_reads_the_card(saved, tmp_path):
    again = tmp_path / "again.safetensors"
    save_weights(again, network(), {"seed": 7})
    assert again.read_bytes() == saved.read_bytes()
    assert again.with_suffix(".json").read_bytes() == saved.with_suffix(".json").read_bytes()
    assert saved.stat().st_mode == saved.with_suffix(".json").stat().st_mode


def test_a_save_that_was_cut_short_is_refused(saved, monkeypatch):
    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sohes.work.weights.write_json", cut)
    with pytest.raises(KeyboardInterrupt):
        save_weights(saved, nn.Linear(2, 3), {"seed": 8})
    with pytest.raises(SohesError, match="is not the file that its card describes: make it again"):
        read_card(saved, "make it again", needs=[])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 99}, "is of version 99, this program reads 1: make it again"),
        ({"digest": "sha256:0"}, "is not the file that its card describes: make it again"),
    ],
)
def test_a_card_of_something_else_is_refused(saved, changes, sentence):
    edit(saved, **changes)
    with pytest.raises(SohesError, match=sentence):
        read_card(saved, "make it again", needs=[])


def test_a_card_that_lacks_a_key_is_refused(saved):
    with pytest.raises(SohesError, match=r"net\.json is damaged \(it lacks model\): make it again"):
        read_card(saved, "make it again", needs=["seed", "model"])


def test_weights_of_another_shape_or_none_are_one_sentence(saved):
    with pytest.raises(SohesError, match=r"does not fit its card \(size mismatch for weight: .*\): again$"):
        load_weights(saved, network(width=4), "again")
    saved.write_bytes(b"not a file of weights")
    with pytest.raises(SohesError, match="does not fit its card"):
        load_weights(saved, network(), "again")


def test_a_lack_of_memory_is_no_fault_of_the_weights(saved, monkeypatch):
    lacking = RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")

    def fail(*_, **__):
        raise lacking

    monkeypatch.setattr(nn.Linear, "load_state_dict", fail)
    with pytest.raises(RuntimeError) as caught:
        load_weights(saved, network(), "again")
    assert caught.value is lacking
