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
from sohes.params import DistillParams, load_params
from sohes.train import loop
from sohes.train.crops import ViewBatch, ViewDataset
from sohes.train.distill import Imitation
from sohes.train.state import ResumableState
from sohes.train.world import World

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml").backbone
ALONE = World(0, 1, torch.device("cpu"))
STUDENT = PARAMS.model_copy(update={"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "image_size": 16})


def backbone(*, seed: int, **changes) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(STUDENT.model_copy(update=changes))


def learner(params: DistillParams, world: World = ALONE) -> Imitation:
    """A student of patch 8 on 16 pixels, so four tokens; a teacher of patch 4, which sees 8 pixels."""
    teacher = backbone(seed=1, patch_size=4, embed_dim=24, image_size=8)
    return Imitation(backbone(seed=0), teacher, params, world, seed=5)


def tiny(**changes) -> DistillParams:
    small = {"steps": 6, "batch_size": 4, "image_size": 16, "warmup_steps": 2, "learning_rate": 0.003, "workers": 0}
    return PARAMS.distill.model_copy(update={**small, "checkpoint_every": 3, **changes})


class Stripes:
    """Images whose direction and colour say which one it is; `quits_at`: the read that ends the process."""

    def __init__(self, image_ids=range(10)) -> None:
        self.image_ids = list(image_ids)

    def read(self, image_id: int) -> np.ndarray:
        y, x = np.mgrid[:40, :40]
        wave = np.sin((x * math.cos(image_id) + y * math.sin(image_id)) * (1 + image_id % 3))[..., None]
        colour = np.random.default_rng(image_id).uniform(0, 255, 3)
        return np.clip(colour * (0.6 + 0.4 * wave), 0, 255).astype(np.uint8)


class Recorder:
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def metrics(self, values, step=None):
        self.rows.append({name: values[name] for name in ("loss", "cosine", "distance", "gradient_norm")})


def train(folder: Path, params: DistillParams, dataset=None, world: World = ALONE) -> tuple[Imitation, list[dict]]:
    pupil, recorder = learner(params, world), Recorder()
    state = ResumableState(folder, "f", may_write=world.is_first)
    dataset = dataset or ViewDataset(Stripes(), params, seed=5)
    loop.train(pupil, dataset, params, title="backbone", seed=5, world=world, state=state, recorder=recorder)
    return pupil, recorder.rows


def same(one: Imitation, other: Imitation) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_student_comes_nearer_to_the_teacher_which_stays(tmp_path):
    pupil, rows = train(tmp_path, tiny(steps=150, batch_size=8))
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["cosine"] + rows[-1]["distance"], rel=1e-5)
    (teacher,) = pupil._teacher
    untouched = backbone(seed=1, patch_size=4, embed_dim=24, image_size=8)
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), untouched.parameters(), strict=True))
    assert not any("teacher" in name for name in pupil.state_dict())
    assert pupil.kept is pupil.network


def test_each_token_has_its_counterpart_and_targets_are_standardised_by_channel():
    pupil = learner(tiny())
    assert pupil.side == 8  # two patches of 4, as the student has two of 8
    pixels = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    targets = pupil._targets(pixels)
    assert targets.shape == (64, 4, 24)
    torch.testing.assert_close(targets.mean((0, 1)), torch.zeros(24), atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.std((0, 1)), torch.ones(24), atol=0.02, rtol=0)
    first = pupil.moments_2C
    again = pupil._targets(pixels.flip(0))  # the mean of two batches of the same images
    torch.testing.assert_close(pupil.moments_2C, first)
    torch.testing.assert_close(again.flip(0), targets, atol=1e-4, rtol=1e-4)
    assert pupil.seen == 2


def test_a_head_that_knows_the_targets_has_no_loss(monkeypatch):
    pupil = learner(tiny())
    batch = ViewBatch(torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8))
    wanted = learner(tiny())._targets(batch.pixels_BHW3.permute(0, 3, 1, 2).float() / 255)
    monkeypatch.setattr(pupil.network, "forward", lambda images: wanted)
    assert pupil(batch, torch.Generator())["loss"] == pytest.approx(0, abs=1e-5)


class Stops:
    """A data set that asks the process to stop, or ends it, while a step's first image is read."""

    def __init__(self, dataset: ViewDataset, step: int, signum: int) -> None:
        self.dataset, self.step, self.signum, self.collate = dataset, step, signum, dataset.collate

    def __getitem__(self, position):
        if position == (self.step, 0):
            os.kill(os.getpid(), self.signum)
        return self.dataset[position]


def test_a_stopped_run_continues_to_the_bit(tmp_path):
    straight, rows = train(tmp_path / "a", tiny())
    with pytest.raises(SystemExit):
        train(tmp_path / "b", tiny(), Stops(ViewDataset(Stripes(), tiny(), seed=5), 3, signal.SIGTERM))
    resumed, same_rows = train(tmp_path / "b", tiny())
    assert same(straight, resumed)
    assert rows[-1:] == same_rows


KILLED = """
import signal, sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_distill import Stops, Stripes, ViewDataset, tiny, train
train(Path(sys.argv[2]), tiny(), Stops(ViewDataset(Stripes(), tiny(), seed=5), 4, signal.SIGKILL))
"""


def test_a_killed_run_continues_to_the_bit(tmp_path):
    import subprocess
    import sys

    straight, _ = train(tmp_path / "a", tiny())
    killed = subprocess.run([sys.executable, "-c", KILLED, Path(__file__).parent, tmp_path / "b"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "b/state.pt", weights_only=True)["step"] == 3
    assert same(straight, train(tmp_path / "b", tiny())[0])


def test_worker_processes_read_the_same_views(tmp_path):
    alone, _ = train(tmp_path / "a", tiny(steps=2))
    assert same(alone, train(tmp_path / "b", tiny(steps=2, workers=2))[0])


PAIR = """
import sys; from pathlib import Path; import torch
sys.path.insert(0, sys.argv[1])
from test_distill import tiny, train
from sohes.train.world import join_world
with join_world() as world:
    torch.save(train(Path(sys.argv[2]) / "run", tiny(), world=world)[0].state_dict(), f"{sys.argv[2]}/{world.rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_backbone_as_one_process_does(two_processes, tmp_path):
    two_processes(PAIR, Path(__file__).parent, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = train(tmp_path / "alone", tiny())[0].state_dict()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    torch.testing.assert_close(first["moments_2C"], alone["moments_2C"], rtol=1e-3, atol=1e-4)


def test_without_images_or_with_a_diverging_loss_it_stops_with_a_sentence(tmp_path):
    with pytest.raises(SohesError, match="no images to train the backbone on"):
        ViewDataset(Stripes([]), tiny(), seed=0)
    with pytest.raises(SohesError, match=r"not finite at step .*; lower backbone\.distill\.learning_rate"):
        train(tmp_path, tiny(learning_rate=1e30))
    with pytest.raises(ValueError, match=r"teacher\.pretrained must be a file or a timm name \(got train\)"):
        DistillParams.model_validate(
            {**PARAMS.distill.model_dump(), "teacher": {**PARAMS.distill.teacher.model_dump(), "pretrained": "train"}}
        )
