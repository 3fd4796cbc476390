"""Where a training step would make the host wait for a GPU, counted on a CPU.

Every tensor of the step is taken for one on the GPU, except what the host has made itself and sends there without
waiting. What only the driver sees, such as an allocation, `infra/gpu/check.py` counts on a GPU.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sohes.backbone.vit import Backbone
from sohes.model.network import Segmenter
from sohes.params import Params, TilesParams
from sohes.train import loop
from sohes.train.correct import Correction
from sohes.train.dataset import LabelDataset, PairDataset
from sohes.train.instruct import Instruction

READ = {torch.Tensor.cpu, torch.Tensor.tolist}
COUNTED_BY_SIZE = {  # the size of what they return depends on the values
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
    "aten::unique_consecutive", "aten::repeat_interleave.Tensor", "aten::equal", "aten::is_nonzero",
}  # fmt: skip
INDEXING = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


def place() -> str:
    """The innermost function of the package, below this one."""
    frame = sys._getframe(1)
    while frame is not None and "/sohes/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    function = frame.f_code.co_qualname.partition(".<locals>")[0]
    return f"{frame.f_globals['__name__'].removeprefix('sohes.')}.{function}"


class Reads(TorchFunctionMode):
    """Copies to the host, and copies from it that wait; on a CPU torch itself does nothing for them."""

    def __init__(self, waits: Counter) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        from_torch = "/torch/" in sys._getframe(1).f_code.co_filename  # it moves nothing that is there already
        to_a_device = any(isinstance(given, torch.device) for given in (*args, *kwargs.values()))
        sends = function is torch.Tensor.to and to_a_device and not from_torch
        made_there = function is torch.tensor and kwargs.get("device") is not None
        if function in READ or made_there or (sends and not kwargs.get("non_blocking")):
            self.waits[place()] += 1
        return function(*args, **kwargs)


class Sizes(TorchDispatchMode):
    """Operators whose result has as many elements as the values say, and numbers that are read."""

    def __init__(self, waits: Counter) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        masked = name in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if masked or name in COUNTED_BY_SIZE:
            self.waits[place()] += 1
        return function(*args, **(kwargs or {}))


def counted(work) -> Counter:
    waits: Counter = Counter()
    with Reads(waits), Sizes(waits):
        work()
    return waits


@pytest.mark.parametrize(
    ("work", "count"),
    [
        (lambda t: t.sum().item(), 1),
        (lambda t: bool((t > 0).any()), 1),
        (lambda t: float(t[0]), 1),
        (lambda t: t.cpu(), 1),
        (lambda t: t.tolist(), 1),
        (lambda t: t.nonzero(), 1),
        (lambda t: t[t > 0], 1),
        (lambda t: t.masked_select(t > 0), 1),
        (lambda t: t.unique(), 1),
        (lambda t: t.__setitem__(t > 0, t[:3].clone()), 1),
        (lambda t: torch.where(t > 0), 1),
        (lambda t: torch.tensor([1.0], device=t.device), 1),
        (lambda t: torch.from_numpy(np.zeros(2)).to(t.device), 1),
        (lambda t: torch.from_numpy(np.zeros(2)).to(t.device, non_blocking=True), 0),
        (lambda t: t[torch.arange(2)], 0),
        (lambda t: torch.where(t > 0, t, 0), 0),
        (lambda t: t.float().to(torch.float64), 0),
    ],
)
def test_what_counts(work, count):
    assert counted(lambda: work(torch.tensor([-1.0, 1.0, 2.0, 3.0]))).total() == count


def step(tiny_params, tiny, learner_of, kind, *, num_points=0, frozen=False, images=2, **section) -> Counter:
    """The waits of the second step of a real network on images of the test's store."""
    tiny_params["loss"]["num_points"] = num_points
    params = Params.model_validate(tiny_params)
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    network = Segmenter(Backbone(params.backbone.architecture, shape), params.model)
    with torch.no_grad():
        network.mask_decoder.class_head.bias.copy_(
            torch.tensor([4.0, -4.0])
        )  # all are entities: there is much to teach
    chosen = (tiny.instruct if learner_of is Instruction else tiny.correct).model_copy(update=section)
    if frozen:
        chosen = chosen.model_copy(update={"optim": chosen.optim.model_copy(update={"backbone_lr_scale": 0.0})})
    learner = learner_of(network, chosen, params.loss).train()
    optimizer = learner.optimizer(chosen)
    besides = {name: section[name] for name in ("tiles", "keep_labels") if name in section}
    dataset = tiny.dataset(kind, batch_size=images, **besides)
    dataset.image_size = 64
    loaded = dataset.collate([dataset[0, k] for k in range(images)])

    def work() -> None:
        generator = loop._generator(0, 1, tiny.world)
        losses, _ = loop._gradients(learner, iter([loaded]), chosen, generator, tiny.world.device)
        loop.clip(learner.network, chosen.optim.clip_norm)
        optimizer.step()
        loop.move_average(learner, 1)
        loop._stacked(losses, tiny.world)

    work()
    return counted(work)


TILES = TilesParams(levels=(0.6,), overlap=0.25, score_factor=0.9)
ALL_ARE_SURE = {"theta_score_small": 0.0, "theta_score_large": 0.0, "parent_min_fraction": 0.0, "child_cover": 0.1}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("num_points", [0, 32])
def test_phase_2_waits_for_the_matching_alone(tiny_params, tiny, num_points, frozen):
    """And for its losses, once, in the loop."""
    waits = step(tiny_params, tiny, Instruction, LabelDataset, num_points=num_points, frozen=frozen)
    assert waits == {"losses.criterion._match_layers": 1}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("images", [2, 4])
def test_phase_3_waits_as_often_for_many_images_as_for_few(tiny_params, tiny, images, frozen):
    waits = step(tiny_params, tiny, Correction, PairDataset, images=images, frozen=frozen, **ALL_ARE_SURE)
    lessons = {"train.lesson.teach": 1, "work.transfer.to_host": 2}  # scores, overlaps, areas in the strong views
    assert waits == {**lessons, "losses.criterion._match_layers": 2}  # of both branches


@pytest.mark.parametrize(
    ("closer", "of_each_image"),
    [
        ({"tiles": TILES}, {"train.closer._scores": 1, "work.transfer.to_host": 1}),
        (
            {"parent_crops": 2},
            {
                "train.parent_crops._boxes": 1,
                "train.parent_crops._lies_inside": 1,
                "train.closer._scores": 1,
                "work.transfer.to_host": 1,
            },
        ),
        ({"refiner": "guided"}, {"train.outlines.refined": 1}),
        ({"keep_labels": True}, {"work.transfer.to_host": 1}),
        ({"hold_free": True}, {}),
    ],
    ids=["tiles", "parent_crops", "refiner", "keep_labels", "hold_free"],
)
def test_a_closer_look_waits_a_few_times_for_each_image(tiny_params, tiny, closer, of_each_image):
    without = step(tiny_params, tiny, Correction, PairDataset, **ALL_ARE_SURE)
    waits = step(tiny_params, tiny, Correction, PairDataset, **ALL_ARE_SURE, **closer)
    assert waits - without == {name: 2 * count for name, count in of_each_image.items()}
