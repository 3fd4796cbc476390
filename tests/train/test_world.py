"""Two processes over gloo, as torchrun starts them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sohes.train.instruct import Instruction
from sohes.train.loop import train
from sohes.train.world import join_world

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch

sys.path.insert(0, sys.argv[1])
from sohes.errors import SohesError
from conftest import MemoryRecorder, make_dataset, make_network, make_state, tiny_settings
from sohes.train.correct import Correction
from sohes.train.dataset import PairDataset
from sohes.train.instruct import Instruction
from sohes.train.loop import train
from sohes.train.world import join_world

torch.set_num_threads(1)
settings = tiny_settings()
params = settings.instruct


def teach(task, folder, world):
    network, dataset = make_network(seed=world.rank), make_dataset(empty=task == "empty" and world.rank == 1)
    if task == "signal":
        sample_for = dataset.sample_for
        def stop(step, k):
            if world.rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            return sample_for(step, k)
        dataset.sample_for = stop
    if task == "calm":
        network.dropout = 0.0
        dataset.augmentation = params.augment.model_copy(update={"copy_paste": 0.0, "scale_min": 1.0, "scale_max": 1.0})
    section = params
    learner = Instruction(network, params, settings.loss)  # the first process's weights become everybody's
    if task == "frozen pairs":
        network.backbone.freeze = lambda: network.backbone.requires_grad_(False)
        section = settings.correct.model_copy(
            update={"optim": settings.correct.optim.model_copy(update={"backbone_lr_scale": 0.0})}
        )
        learner, dataset = Correction(network, section, settings.loss), make_dataset(PairDataset)
    state = make_state(folder / task)
    if task == "apart" and world.is_first:
        state = make_state(folder / "signal")
    state.may_write = world.is_first
    code, history = 0, []
    try:
        history = train(
            learner, dataset, section, title=task, seed=0, world=world, state=state, recorder=MemoryRecorder()
        )
    except SystemExit as end:
        code = end.code
    except SohesError as error:
        code = str(error)
    return {"learner": learner.state_dict(), "history": history, "code": code}


def fails():
    raise SohesError(f"of {os.environ['RANK']}")


folder = Path(sys.argv[2])
with join_world() as world:
    assert (world.size, world.device.type) == (2, "cpu")
    assert world.gather("ab"[world.rank]) == ["a", "b"]
    assert world.of_first(lambda: "ab"[world.rank]) == "a"
    try:
        world.of_first(fails)
    except SohesError as error:
        assert str(error) == "of 0", error
    else:
        raise AssertionError
    results = {task: teach(task, folder, world) for task in ("empty", "calm", "frozen pairs", "signal", "apart")}
    torch.save(results, folder / f"{world.rank}.pt")
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory, two_processes) -> SimpleNamespace:
    """What each of two processes has after each task; where their files are; what they said."""
    folder = tmp_path_factory.mktemp("world")
    said = two_processes(SCRIPT, Path(__file__).parent, folder)
    results = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return SimpleNamespace(results=results, folder=folder, said=said)


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_alone_without_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_world() as world:
        assert (world.rank, world.size, world.is_first) == (0, 1, True)
        values = torch.tensor([1.0, 2.0])
        assert torch.equal(world.mean(values), torch.tensor([1.0, 2.0]))
        assert world.gather("mine") == ["mine"]
        assert world.of_first(lambda: "mine") == "mine"
        world.wait()


def test_torch_has_no_newer_name_for_what_it_is_told(both):
    assert not any("deprecated" in words for words in both.said), both.said


def test_one_process_without_targets_trains_the_same_weights_as_the_other(both):
    first, second = (result["empty"] for result in both.results)
    assert same(first["learner"], second["learner"])
    assert first["history"] == second["history"]
    assert first["history"][-1]["loss"] > 0


def test_phase_3_with_a_frozen_backbone_trains_the_same_weights_in_both(both, tiny):
    first, second = (result["frozen pairs"]["learner"] for result in both.results)
    assert same(first, second)
    begun = {f"network.{name}": weight for name, weight in tiny.network(seed=0).state_dict().items()}
    changed = {name.split(".")[1] for name, weight in begun.items() if not torch.equal(first[name], weight)}
    assert changed == {"mask_weight", "class_weight", "ancestor_weight", "seen"}


def test_two_processes_take_the_steps_of_one(both, tiny, tmp_path):
    """Without chance in the network, half a batch each gives the whole batch's gradient."""
    network = tiny.network()
    network.dropout = 0.0
    calm = tiny.instruct.augment.model_copy(update={"copy_paste": 0.0, "scale_min": 1.0, "scale_max": 1.0})
    history = train(
        Instruction(network, tiny.instruct, tiny.loss), tiny.dataset(augment=calm), tiny.instruct, title="t", seed=0,
        world=tiny.world, state=tiny.state(tmp_path), recorder=tiny.recorder(),
    )  # fmt: skip
    two = both.results[0]["calm"]["history"]
    assert two[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=1e-3)
    assert two[-1]["gradient_norm"] == pytest.approx(history[-1]["gradient_norm"], rel=1e-2)


def test_a_signal_to_one_process_stops_both_after_the_same_step(both):
    first, second = (result["signal"] for result in both.results)
    assert (first["code"], second["code"]) == (75, 75)
    assert "stopped on request after step 3 of 6" in both.said[0]
    assert torch.load(both.folder / "signal/state.pt", weights_only=True)["step"] == 3
    assert same(first["learner"], second["learner"])


def test_processes_that_would_begin_at_different_steps_all_say_so(both):
    for result in both.results:
        code = result["apart"]["code"]
        assert code.startswith("the processes of one training would begin at different steps (0, 3)"), code
        assert code.endswith("let all see the same folder, or remove it everywhere to begin again")
