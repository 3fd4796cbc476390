import io
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from sohes.backbone.build import build_backbone
from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.params import DinoParams, load_params
from sohes.train import loop
from sohes.train.crops import CropDataset
from sohes.train.dino import Dino, Head, Network, dino_loss, momentum_at, moved_centre, rate_at
from sohes.train.world import World

torch.set_num_threads(1)
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").backbone
ALONE = World(0, 1, torch.device("cpu"))
TINY = PARAMS.model_copy(update={"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "image_size": 16})


def tiny_dino(**changes) -> DinoParams:
    small = {"steps": 6, "batch_size": 4, "image_size": 16, "local_crops": 2, "warmup_steps": 2, "prototypes": 8}
    return PARAMS.dino.model_copy(update={**small, "learning_rate": 0.01, "checkpoint_every": 2, **changes})


def tiny_backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone(TINY)


class Stripes:
    """Images whose direction and colour say which one it is."""

    def __init__(self, image_ids=range(10)) -> None:
        self.image_ids = list(image_ids)

    def read(self, image_id: int) -> np.ndarray:
        y, x = np.mgrid[:24, :24]
        wave = np.sin((x * math.cos(image_id) + y * math.sin(image_id)) * (1 + image_id % 3))[..., None]
        colour = np.random.default_rng(image_id).uniform(0, 255, 3)
        return np.clip(colour * (0.6 + 0.4 * wave), 0, 255).astype(np.uint8)


class StopsAfter:
    """A data set that asks the process to stop while a step's first image is read."""

    def __init__(self, dataset: CropDataset, step: int) -> None:
        self.dataset, self.step, self.collate = dataset, step, dataset.collate

    def __getitem__(self, position):
        if position == (self.step - 1, 0):
            os.kill(os.getpid(), signal.SIGTERM)
        return self.dataset[position]


class Recorder:
    """Keeps the figures of each step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values, step=None):
        self.rows.append((step, {name: values[name] for name in ("loss", "gradient_norm", "entropy", "diversity")}))


@pytest.fixture(autouse=True)
def every_step_is_recorded(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)


class Memory:
    """A state that is kept in memory, as bytes, so that nothing is shared with the run that saved it."""

    def __init__(self) -> None:
        self.saved: list[bytes] = []

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self.saved.append(buffer.getvalue())

    def load(self):
        return torch.load(io.BytesIO(self.saved[-1]), map_location="cpu", weights_only=True) if self.saved else None


def train(params: DinoParams, state: Memory, *, stop_after=10**6, backbone: Backbone | None = None, world=ALONE):
    """The trained backbone, None if it was stopped, and the figures of each step."""
    recorder, learner = Recorder(), Dino(backbone or tiny_backbone(), params, world, seed=5)
    dataset = StopsAfter(CropDataset(Stripes(), learner.network.backbone, params, seed=5), stop_after)
    try:
        loop.train(learner, dataset, params, title="backbone", seed=5, world=world, state=state, recorder=recorder)
    except SystemExit:
        return None, recorder.rows
    return learner.kept.backbone.requires_grad_(True).eval(), recorder.rows


def test_dino_loss_by_hand():
    # Two prototypes. The teacher's views, temperature 1, centre (ln 3, 0): logits (ln 3 + ln 3, 0) -> (3/4, 1/4) and
    # (ln 3, 0) -> (1/2, 1/2). The student's three views, temperature 1: (ln 4, 0) -> (4/5, 1/5), twice (0, 0).
    ln3 = math.log(3)
    teacher = [torch.tensor([[2 * ln3, 0.0]]), torch.tensor([[ln3, 0.0]])]
    student = [torch.tensor([[math.log(4), 0.0]]), torch.zeros(1, 2), torch.zeros(1, 2)]
    loss = dino_loss(student, teacher, torch.tensor([ln3, 0.0]), teacher_temperature=1.0, student_temperature=1.0)
    # pairs: teacher 0 with student 1 and 2, teacher 1 with student 0 and 2; never a view with itself
    pairs = [math.log(2), math.log(2), -0.5 * math.log(4 / 5) - 0.5 * math.log(1 / 5), math.log(2)]
    assert float(loss) == pytest.approx(sum(pairs) / 4, rel=1e-6)


def test_temperatures_sharpen_each_side():
    teacher, student = [torch.tensor([[0.1, 0.0]])], [torch.zeros(1, 2), torch.tensor([[0.2, 0.0]])]
    loss = dino_loss(student, teacher, torch.zeros(2), teacher_temperature=0.05, student_temperature=0.1)
    target, guess = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-2))  # both 0.1 / 0.05 and 0.2 / 0.1
    assert float(loss) == pytest.approx(-target * math.log(guess) - (1 - target) * math.log(1 - guess), rel=1e-5)


def test_the_centre_moves_a_tenth_of_the_way():
    teacher = [torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 5.0]])]
    torch.testing.assert_close(moved_centre(torch.zeros(2), teacher, ALONE), torch.tensor([0.2, 0.4]))


def test_the_head_compares_directions_with_prototypes_of_unit_length():
    head = Head(16, 8)
    logits = head(torch.randn(5, 16))
    assert logits.shape == (5, 8)
    assert logits.abs().max() <= 1 + 1e-6  # cosines
    with torch.no_grad():
        before = head(torch.ones(1, 16))
        head.prototypes.mul_(7)
        torch.testing.assert_close(head(torch.ones(1, 16)), before)


def test_rate_and_momentum_follow_their_schedules():
    params = tiny_dino(steps=100, warmup_steps=10, learning_rate=0.5, teacher_momentum=0.9)
    rates = [rate_at(step, params) for step in range(100)]
    np.testing.assert_allclose(rates[:11], [*np.linspace(0.05, 0.5, 10), 0.5])
    assert rates[55] == pytest.approx(0.25, abs=1e-5)  # half way down
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] < 0.001
    assert momentum_at(0, params) == pytest.approx(0.9)
    assert momentum_at(50, params) == pytest.approx(0.95)
    assert momentum_at(100, params) == pytest.approx(1)


def test_a_stopped_run_continues_to_the_bit():
    whole, steps = train(tiny_dino(), Memory())
    state = Memory()
    nothing, first = train(tiny_dino(), state, stop_after=3)  # between two checkpoints
    assert nothing is None
    continued, rest = train(tiny_dino(), state)
    assert [done for done, _ in first + rest] == [1, 2, 3, 4, 5, 6]
    assert first + rest == steps
    for (name, a), b in zip(whole.state_dict().items(), continued.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_killed_run_continues_from_its_last_checkpoint():
    whole, _ = train(tiny_dino(), Memory())
    killed = Memory()
    train(tiny_dino(), killed)
    assert len(killed.saved) == 3
    del killed.saved[1:]  # as after a kill in step 3 or 4
    again, rest = train(tiny_dino(), killed)
    assert [done for done, _ in rest] == [3, 4, 5, 6]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def margin(backbone: Backbone) -> float:
    """How much more alike two crops of one image are than crops of any two, as cosines."""
    backbone.eval()
    images = [Stripes().read(i)[y : y + 16, y : y + 16] for y in (0, 8) for i in range(10)]
    with torch.no_grad():
        embeddings = backbone.tokens(backbone.normalise(images)).flatten(1, 2).mean(1)
    first, second = torch.nn.functional.normalize(embeddings, dim=-1).chunk(2)
    alike = first @ second.T
    return float(alike.diagonal().mean() - alike.mean())


def test_training_draws_crops_of_an_image_together_and_images_apart():
    params = tiny_dino(steps=100, batch_size=10, warmup_steps=5, prototypes=32, learning_rate=0.001)
    backbone, steps = train(params.model_copy(update={"teacher_momentum": 0.95}), Memory())
    assert steps[-1][1]["diversity"] > 0.3  # not the same target for every image
    assert all(p.requires_grad for p in backbone.parameters())
    assert margin(backbone) > margin(tiny_backbone()) + 0.07


def test_prototypes_stay_through_the_warm_up_and_the_teacher_trails_the_student():
    state = Memory()
    train(tiny_dino(steps=2, warmup_steps=2, teacher_momentum=0.5), state)
    saved = state.load()
    backbone = tiny_backbone()
    torch.manual_seed(5)  # as `train` does
    weights = saved["learner"]
    assert torch.equal(weights["network.head.prototypes"], Network(backbone, 8).head.prototypes)
    assert not torch.equal(weights["network.head.mlp.0.weight"], weights["average.head.mlp.0.weight"])


def test_no_images_and_a_loss_that_is_not_finite_are_one_sentence():
    with pytest.raises(SohesError, match="no images to train the backbone on"):
        CropDataset(Stripes([]), tiny_backbone(), tiny_dino(), seed=0)
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.vit.patch_embed.proj.weight[0] = math.nan
    with pytest.raises(SohesError, match=r"not finite at step 0 .*; lower backbone\.dino\.learning_rate"):
        train(tiny_dino(), Memory(), backbone=backbone)


def test_without_local_crops_only_the_two_large_ones_are_compared():
    backbone, steps = train(tiny_dino(local_crops=0, steps=2), Memory())
    assert isinstance(backbone, Backbone)
    assert len(steps) == 2


PAIR = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_dino import Memory, loop, tiny_dino, train
from sohes.train.world import join_world

loop.LOG_EVERY = 1
with join_world() as world:
    state = Memory()
    backbone, steps = train(tiny_dino(), state, world=world)
    result = {"backbone": backbone.state_dict(), "centre": state.load()["learner"]["centre_K"], "steps": steps}
    torch.save(result, f"{sys.argv[2]}/{world.rank}.pt")
"""


def test_two_processes_train_one_backbone_as_one_process_does(two_processes, tmp_path):
    """Half of the crops each, and one centre for both."""
    two_processes(PAIR, Path(__file__).parent, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, weight in first["backbone"].items():
        assert torch.equal(weight, second["backbone"][name]), name
    state = Memory()
    _, steps = train(tiny_dino(), state)
    for (_, two), (_, one) in zip(first["steps"], steps, strict=True):
        for name in ("loss", "gradient_norm", "entropy"):  # diversity is of the images that a process sees
            assert two[name] == pytest.approx(one[name], rel=1e-3)
    torch.testing.assert_close(first["centre"], state.load()["learner"]["centre_K"], rtol=1e-3, atol=1e-5)
