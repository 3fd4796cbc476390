import functools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from sohes.backbone import precision
from sohes.errors import SohesError
from sohes.model.footprint import build
from sohes.params import load_params
from sohes.train.correct import Correction
from sohes.train.dataset import PairDataset
from sohes.train.instruct import Instruction
from sohes.train.loop import LOG_EVERY, Meter, train


def run(
    tiny, folder, *, phase=Instruction, network=None, params=None, dataset=None, fingerprint="f", recorder=None,
    title="instruct", **more
):  # fmt: skip
    """The weights that a phase keeps, and its history."""
    kind = {} if phase is Instruction else {"kind": PairDataset}
    params = params or (tiny.instruct if phase is Instruction else tiny.correct)
    learner = phase(network or tiny.network(), params, tiny.loss)
    history = train(
        learner,
        dataset or tiny.dataset(**kind),
        params,
        title=title,
        seed=0,
        world=tiny.world,
        state=tiny.state(folder, fingerprint),
        recorder=recorder or tiny.recorder(),
        **more,
    )
    return learner.kept, history


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


class Quits:
    """A data set that fails at a step, as a killed process would: nothing is saved after it."""

    def __init__(self, dataset, step):
        self.dataset, self.step = dataset, step
        self.collate = dataset.collate

    def __getitem__(self, position):
        if position[0] == self.step:
            raise KeyboardInterrupt
        return self.dataset[position]


@pytest.mark.parametrize("phase", [Instruction, Correction])
def test_six_steps_equal_three_steps_a_kill_and_three_steps_more(tiny, tmp_path, phase):
    kind = {} if phase is Instruction else {"kind": PairDataset}
    params = (tiny.instruct if phase is Instruction else tiny.correct).model_copy(update={"checkpoint_every": 3})
    straight, history = run(tiny, tmp_path / "a", phase=phase, params=params)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "b", phase=phase, params=params, dataset=Quits(tiny.dataset(**kind), 5))
    assert torch.load(tmp_path / "b/state.pt", weights_only=True)["step"] == 3
    resumed, same_history = run(tiny, tmp_path / "b", phase=phase, params=params)
    assert same(straight, resumed)
    assert history == same_history
    assert not same(straight, tiny.network())  # it did learn something


def test_the_same_seed_gives_the_same_losses_and_another_one_others(tiny, tmp_path):
    params = tiny.instruct.model_copy(update={"steps": 20})
    histories = [run(tiny, tmp_path / name, params=params)[1] for name in "ab"]
    assert histories[0] == histories[1]
    other = run(tiny, tmp_path / "c", params=params, dataset=tiny.dataset(seed=1))[1]
    assert other[0]["loss"] != histories[0][0]["loss"]


def test_the_steps_of_another_stage_draw_other_numbers(tiny, tmp_path, monkeypatch):
    """Such as the points at which masks are compared."""
    drawn = []
    forward = Instruction.forward
    monkeypatch.setattr(
        Instruction, "forward", lambda self, b, g: (drawn.append(g.initial_seed()), forward(self, b, g))[1]
    )
    for title in ("instruct", "correct", "instruct"):
        run(tiny, tmp_path / str(len(drawn)), title=title)
    first, second, again = np.array(drawn).reshape(3, -1)
    assert (first == again).all()
    assert not set(first) & set(second)


def test_training_lowers_the_loss(tiny, tmp_path):
    params = tiny.instruct.model_copy(update={"steps": 80})
    history = run(tiny, tmp_path, params=params)[1]
    assert [row["step"] for row in history] == list(range(LOG_EVERY, 81, LOG_EVERY))
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    parts = sum(history[0][name] for name in ("class", "mask", "dice", "ancestor"))
    assert parts == pytest.approx(history[0]["loss"], rel=1e-5)


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(tiny, tmp_path):
    """Equal parts of equally many targets: the mean of the parts' losses is the loss of the whole."""
    still = tiny.instruct.augment.model_copy(update={"copy_paste": 0.0, "scale_min": 1.0, "scale_max": 1.0})
    histories = []
    for accumulate in (1, 4):
        network = tiny.network().eval()
        network.train = lambda mode=True, network=network: network  # no dropout: parts draw their own
        params = tiny.instruct.model_copy(update={"steps": 1, "accumulate": accumulate})
        dataset = tiny.dataset(augment=still)
        learner = Instruction(network, params, tiny.loss)
        state, recorder = tiny.state(tmp_path / str(accumulate)), tiny.recorder()
        histories.append(
            train(
                learner, dataset, params, title="t", seed=0, world=tiny.world, state=state, recorder=recorder
            )[0]
        )  # fmt: skip
    assert histories[0]["gradient_norm"] == pytest.approx(histories[1]["gradient_norm"], rel=1e-4)
    assert histories[0]["loss"] == pytest.approx(histories[1]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)],
)
def test_a_signal_saves_and_the_same_command_continues(tiny, tmp_path, signum, code, capsys):
    class Signals(Quits):
        def __getitem__(self, position):
            if position == (2, 0):
                os.kill(os.getpid(), signum)
            return self.dataset[position]

    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as end:
        run(tiny, tmp_path / "b", dataset=Signals(tiny.dataset(), None))
    assert end.value.code == code
    assert "stopped on request after step 3 of 6" in capsys.readouterr().err
    assert signal.getsignal(signum) == before
    assert torch.load(tmp_path / "b/state.pt", weights_only=True)["step"] == 3
    assert same(run(tiny, tmp_path / "b")[0], run(tiny, tmp_path / "a")[0])


def test_a_state_of_other_params_is_not_continued(tiny, tmp_path, capsys):
    params = tiny.instruct.model_copy(update={"checkpoint_every": 3})
    run(tiny, tmp_path / "b", params=params, fingerprint="one")
    tiny.state(tmp_path / "b", "one").begin(None)
    capsys.readouterr()
    assert same(run(tiny, tmp_path / "b", fingerprint="two")[0], run(tiny, tmp_path / "a")[0])
    assert "discarded" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tiny, tmp_path):
    class Nan(Instruction):
        def forward(self, batch, generator):
            return {"loss": super().forward(batch, generator)["loss"] * float("nan")}

    learner = Nan(tiny.network(), tiny.instruct, tiny.loss)
    with pytest.raises(SohesError, match=r"instruct stopped: .* not finite at step 0 .*learning_rate"):
        train(
            learner, tiny.dataset(), tiny.instruct, title="instruct", seed=0, world=tiny.world,
            state=tiny.state(tmp_path), recorder=tiny.recorder(),
        )  # fmt: skip
    assert not (tmp_path / "state.pt").exists()


def test_what_is_recorded(tiny, tmp_path):
    recorder = tiny.recorder()
    params = tiny.instruct.model_copy(update={"steps": 12})
    run(tiny, tmp_path, params=params, recorder=recorder)
    assert [step for step, _ in recorder.rows] == [10, 12]
    names = {"loss", "class", "mask", "dice", "ancestor", "gradient_norm", "skipped_images", "images_per_second"}
    assert set(recorder.rows[0][1]) == names | {"peak_memory_mib"}
    assert recorder.rows[0][1]["images_per_second"] > 0


def test_validation_is_called_when_due_and_changes_nothing(tiny, tmp_path):
    seen = []

    def validate(learner):
        seen.append(learner)
        learner.network.eval()
        torch.rand(3)
        return {"validation/AR": 1.5}

    recorder = tiny.recorder()
    params = tiny.instruct.model_copy(update={"validate_every": 2})
    validated = run(tiny, tmp_path / "a", params=params, validate=validate, recorder=recorder)[0]
    assert len(seen) == 3
    assert (2, {"validation/AR": 1.5}) in recorder.rows
    assert same(validated, run(tiny, tmp_path / "b")[0])


def test_the_kept_weights_are_the_moving_average(tiny, tmp_path):
    params = tiny.instruct.model_copy(update={"steps": 1})
    learner = Instruction(tiny.network(), params, tiny.loss)
    start = tiny.network().state_dict()
    train(
        learner, tiny.dataset(), params, title="t", seed=0, world=tiny.world, state=tiny.state(tmp_path),
        recorder=tiny.recorder(),
    )  # fmt: skip
    momentum = 1 / 10  # the ramp's first value
    for name, average in learner.kept.named_parameters():
        expected = momentum * start[name] + (1 - momentum) * learner.network.state_dict()[name]
        assert torch.allclose(average, expected, atol=1e-6)
    assert learner.kept.seen == learner.network.seen == 1  # buffers are copied
    last = Instruction(tiny.network(), params.model_copy(update={"ema": 0.0}), tiny.loss)
    assert last.kept is last.network


def test_a_bad_record_is_said_once_and_counted(tiny, tmp_path, capsys):
    dataset = tiny.dataset(count=3, augment=tiny.instruct.augment.model_copy(update={"copy_paste": 0.0}))
    read = dataset.images.read
    dataset.images.read = lambda image_id: read(image_id)[:20] if image_id == 1 else read(image_id)
    history = run(tiny, tmp_path, dataset=dataset)[1]
    assert capsys.readouterr().err.count("instruct: passed over image 1: the labels are for 24 x 32") == 1
    assert history[-1]["skipped_images"] == 8  # 24 samples of three images


def segmenter():
    """A real one of some ten thousand weights: ViT, adapter and heads."""
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    vit = {"patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "image_size": 32}
    sizes = {"image_size": 32, "hidden_dim": 16, "num_queries": 21, "num_heads": 2, "feedforward_dim": 32}
    torch.manual_seed(0)
    model = params.model.model_copy(update={**sizes, "decoder_layers": 1})
    return build(params.model_copy(update={"backbone": params.backbone.model_copy(update=vit), "model": model}))


@pytest.mark.parametrize("phase", [Instruction, Correction])
def test_a_frozen_backbone_stays_is_kept_once_and_lets_the_adapter_learn(tiny, tmp_path, phase):
    params = tiny.instruct if phase is Instruction else tiny.correct
    optim = params.optim.model_copy(update={"backbone_lr_scale": 0.0, "weight_decay": 0.5})
    params = params.model_copy(update={"optim": optim, "checkpoint_every": 3})
    learner = phase(segmenter(), params, tiny.loss)
    vit, shared = learner.network.backbone, learner.average.backbone
    assert all(a is b for a, b in zip(vit.parameters(), shared.parameters(), strict=True))
    kind = {} if phase is Instruction else {"kind": PairDataset}
    more = {"title": "t", "seed": 0, "world": tiny.world}
    train(learner, tiny.dataset(**kind), params, state=tiny.state(tmp_path / "a"), recorder=tiny.recorder(), **more)
    fresh, kept = segmenter(), learner.kept
    assert not learner.train().network.backbone.training
    assert same(fresh.backbone, kept.backbone)
    assert all(p.grad is None for p in vit.parameters())
    gamma = "adapter.injectors.0.gamma"  # its gradient has come through the ViT's blocks
    for network in (learner.network, kept):
        assert not torch.equal(network.state_dict()[gamma], fresh.state_dict()[gamma])
    assert not torch.equal(learner.network.state_dict()[gamma], kept.state_dict()[gamma])
    saved = torch.load(tmp_path / "a/state.pt", weights_only=True)
    assert len(saved["optimizer"]["state"]) == len([p for p in learner.network.parameters() if p.requires_grad])

    with pytest.raises(KeyboardInterrupt):
        run(
            tiny,
            tmp_path / "b",
            phase=phase,
            network=segmenter(),
            params=params,
            dataset=Quits(tiny.dataset(**kind), 5),
        )
    assert same(kept, run(tiny, tmp_path / "b", phase=phase, network=segmenter(), params=params)[0])


def test_amp_trains_in_bfloat16_where_the_cpu_multiplies_in_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_in_bfloat16", lambda device: True)
    params = tiny.instruct.model_copy(update={"optim": tiny.instruct.optim.model_copy(update={"amp": True})})
    seen = []
    network = tiny.network()
    network.mask_weight.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    learner = Instruction(network, params, tiny.loss)
    train(
        learner, tiny.dataset(), params, title="t", seed=0, world=tiny.world, state=tiny.state(tmp_path),
        recorder=tiny.recorder(),
    )  # fmt: skip
    assert set(seen) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in learner.kept.parameters())


def test_a_compiled_network_learns_the_same(tiny, tmp_path, monkeypatch):
    """Traced by torch.compile but run as it is: compiling for real takes minutes."""
    traced = []

    def backend(graph, _):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    network = tiny.network()
    network.dropout = 0.0  # its random numbers are drawn in another order
    compiled = run(tiny, tmp_path / "a", network=network, params=tiny.instruct.model_copy(update={"compile": True}))
    plain = tiny.network()
    plain.dropout = 0.0
    expected = run(tiny, tmp_path / "b", network=plain)
    assert traced
    assert compiled[1][-1]["loss"] == pytest.approx(expected[1][-1]["loss"], rel=1e-4)
    assert set(compiled[0].state_dict()) == set(expected[0].state_dict())


def test_the_meter_continues_in_the_middle_of_a_row():
    whole, first = Meter(), Meter()
    for value in (1.0, 2.0, 6.0):
        whole.add({"loss": value, "skipped_images": 1.0})
    first.add({"loss": 1.0, "skipped_images": 1.0})
    state = first.state_dict()
    second = Meter(state["history"], state["sums"], state["count"])
    for value in (2.0, 6.0):
        second.add({"loss": value, "skipped_images": 1.0})
    assert whole.flush(3) == second.flush(3) == {"loss": 3.0, "skipped_images": 3.0}
    whole.add({"loss": 5.0, "skipped_images": 1.0})
    assert whole.flush(4) == {"loss": 5.0, "skipped_images": 4.0}


def test_neither_validations_nor_checkpoints_are_counted_as_steps(tiny, tmp_path, monkeypatch):
    """A clock that only they and the steps move: 1 second a step, 100 each of the others."""
    now = [0.0]
    monkeypatch.setattr("sohes.train.loop.time.monotonic", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    class Slow(Instruction):
        def after_backward(self, step):
            passes(1)

    params = tiny.instruct.model_copy(update={"steps": 20, "validate_every": 5, "checkpoint_every": 4})
    state, recorder = tiny.state(tmp_path), tiny.recorder()
    monkeypatch.setattr(state, "save", lambda _: passes(100))

    def validate(_):
        passes(100)
        return {}

    train(
        Slow(tiny.network(), params, tiny.loss), tiny.dataset(), params, title="t", seed=0, world=tiny.world,
        state=state, recorder=recorder, validate=validate,
    )  # fmt: skip
    rates = [values["images_per_second"] for _, values in recorder.rows if "images_per_second" in values]
    assert rates == [params.batch_size] * 2
