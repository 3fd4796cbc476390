"""DINO: a student learns to predict, from any crop of an image, what its own moving average sees in a large one.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (2021). The demo trains its backbone so; the
paper's profile takes published weights. Every step draws its images and crops from (seed, step) alone, so that a run
that was stopped continues to the bit on a CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sohes.backbone.vit import Backbone
from sohes.errors import SohesError
from sohes.params import DinoParams
from sohes.train.crops import multi_crop

CENTRE_MOMENTUM = 0.9
CLIP_NORM = 3.0
FINAL_RATE = 1e-6
BOTTLENECK = 256  # the head's last hidden layer, as published; a narrow ViT has half its own width
WIDEST = 2048  # the head's other layers, as published; a narrow ViT has four times its own width
_ORDER, _CROPS = 0, 1  # independent random streams

ReadImage = Callable[[int], np.ndarray]
Crops = tuple[Tensor, Tensor]


class State(Protocol):
    """Where a stopped run continues from: `sohes.train.state.ResumableState`, of which this layer must not know."""

    def save(self, state: Mapping[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None: ...


# ---------------------------------------------------------------- the loss


class Head(nn.Module):
    """Image embedding -> logits of the prototypes: an MLP, a unit-length bottleneck, prototypes of unit length."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        width = min(WIDEST, 4 * dim)
        bottleneck = min(BOTTLENECK, dim // 2)
        self.mlp = nn.Sequential(
            nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.normal_(
            self.prototypes, std=bottleneck**-0.5
        )  # about unit length: Adam's steps turn shorter ones further
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, embeddings_BC: Tensor) -> Tensor:
        return F.normalize(self.mlp(embeddings_BC), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Network(nn.Module):
    """A backbone with a head on its image embedding, the mean of its patch tokens.

    Ours, where the original takes the class token: patch tokens are what the rest of the house reads, and so the loss
    acts on them directly.
    """

    def __init__(self, backbone: Backbone, prototypes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, Head(backbone.embed_dim, prototypes)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        tokens, _ = self.backbone.features(images_B3HW)
        return self.head(tokens[:, self.backbone.num_prefix_tokens :].mean(1))


def dino_loss(
    student_VBK: Sequence[Tensor],
    teacher_GBK: Sequence[Tensor],
    centre_K: Tensor,
    *,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """Mean cross-entropy of every pair of a teacher's view and another view of the student (equation 1 and 2).

    student_VBK: logits of V views, the first of which are the teacher's G views.
    """
    targets = [F.softmax((logits - centre_K) / teacher_temperature, -1) for logits in teacher_GBK]
    guesses = [F.log_softmax(logits / student_temperature, -1) for logits in student_VBK]
    pairs = [
        -(target * guess).sum(-1).mean()
        for t, target in enumerate(targets)
        for s, guess in enumerate(guesses)
        if s != t
    ]
    return torch.stack(pairs).mean()


def moved_centre(centre_K: Tensor, teacher_GBK: Sequence[Tensor]) -> Tensor:
    """The running mean of the teacher's logits, which keeps one prototype from winning everywhere (equation 4)."""
    return centre_K.lerp(torch.cat(list(teacher_GBK)).mean(0), 1 - CENTRE_MOMENTUM)


# ---------------------------------------------------------------- schedules


def rate_at(step: int, params: DinoParams) -> float:
    """Learning rate: a linear warm-up, then a cosine down to 1e-6."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    share = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    return FINAL_RATE + (params.learning_rate - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2


def momentum_at(step: int, params: DinoParams) -> float:
    """The teacher's momentum: a cosine from `teacher_momentum` up to 1."""
    return 1 - (1 - params.teacher_momentum) * (1 + math.cos(math.pi * step / params.steps)) / 2


def images_of_step(image_ids: Sequence[int], step: int, *, batch_size: int, seed: int) -> list[int]:
    """The step's images: epochs in random order one after the other, each a pure function of the seed."""
    chosen: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, len(image_ids))
        if not chosen or place == 0:
            order = np.random.default_rng((seed, _ORDER, epoch)).permutation(len(image_ids))
        chosen.append(image_ids[order[place]])
    return chosen


# ---------------------------------------------------------------- the training


def pretrain(
    backbone: Backbone,
    read_image: ReadImage,
    image_ids: Sequence[int],
    params: DinoParams,
    *,
    seed: int,
    state: State,
    on_step: Callable[[int, dict[str, float]], bool],
) -> Backbone | None:
    """Train the backbone on its device; the teacher's weights, which are the better ones (section 5.2).

    read_image: (H, W, 3) uint8 RGB of an image id, called from one other thread. on_step(steps done, figures) returns
    whether to stop now: then the state is saved, and None returned. Continues from `state` if it holds one.
    SohesError for no images, for a crop size that is no multiple of the patch size, and for a loss that is not finite.
    """
    if not image_ids:
        raise SohesError("there are no images to train the backbone on: run `sohes pull` with more of them")
    torch.manual_seed(seed)  # the head's first weights
    student = Network(backbone, params.prototypes).to(backbone.device).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = _optimizer(student, params)
    centre_K = torch.zeros(params.prototypes, device=backbone.device)
    start = 0
    saved = state.load()
    if saved is not None:
        student.load_state_dict(saved["student"])
        teacher.load_state_dict(saved["teacher"])
        optimizer.load_state_dict(saved["optimizer"])
        centre_K, start = saved["centre"].to(backbone.device), saved["step"]

    for done, crops in enumerate(_batches(backbone, read_image, image_ids, params, start, seed), start + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(done - 1, params)
        loss, targets_GBK = _compare(student, teacher, crops, centre_K, params)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if done <= params.warmup_steps:
            student.head.prototypes.grad = None  # the original, too, holds its last layer still at first (an epoch)
        norm = nn.utils.clip_grad_norm_(student.parameters(), CLIP_NORM)
        figures = {"loss": float(loss.detach()), "gradient_norm": float(norm), **_spread(targets_GBK, centre_K, params)}
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["gradient_norm"])):
            raise SohesError(f"the loss is not finite at step {done}: lower backbone.dino.learning_rate")
        optimizer.step()
        centre_K = moved_centre(centre_K, targets_GBK)
        _move(teacher, student, momentum_at(done - 1, params))
        stop = on_step(done, figures) and done < params.steps
        if stop or done % params.checkpoint_every == 0:
            networks = {"student": student.state_dict(), "teacher": teacher.state_dict()}
            state.save({"step": done, **networks, "optimizer": optimizer.state_dict(), "centre": centre_K})
        if stop:
            return None
    return teacher.backbone.requires_grad_(True).eval()


def _compare(
    student: Network, teacher: Network, crops: Crops, centre_K: Tensor, params: DinoParams
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The loss of a batch of crops, and the teacher's logits of its two large views."""
    large, small = crops
    with torch.no_grad():
        targets_GBK = teacher(large).chunk(2)
    guesses_VBK = student(large).chunk(2)
    if params.local_crops:
        guesses_VBK += student(small).chunk(params.local_crops)
    loss = dino_loss(
        guesses_VBK,
        targets_GBK,
        centre_K,
        teacher_temperature=params.teacher_temperature,
        student_temperature=params.student_temperature,
    )
    return loss, targets_GBK


@torch.no_grad()
def _spread(targets_GBK: Sequence[Tensor], centre_K: Tensor, params: DinoParams) -> dict[str, float]:
    """Signs of collapse, in nats: `entropy` of each target (high: uniform everywhere) and `diversity`, the entropy of
    their mean less theirs (0: the same target for every image)."""
    targets_NK = F.softmax((torch.cat(list(targets_GBK)) - centre_K) / params.teacher_temperature, -1)
    each, together = torch.special.entr(targets_NK).sum(-1).mean(), torch.special.entr(targets_NK.mean(0)).sum()
    return {"entropy": float(each), "diversity": float(together - each)}


@torch.no_grad()
def _move(teacher: Network, student: Network, momentum: float) -> None:
    for average, new in zip(teacher.parameters(), student.parameters(), strict=True):
        average.lerp_(new, 1 - momentum)


def _optimizer(student: Network, params: DinoParams) -> torch.optim.Optimizer:
    """AdamW; no weight decay on biases, norms and single tokens."""
    trained = [p for p in student.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.squeeze().ndim > 1]
    vectors = [p for p in trained if p.squeeze().ndim <= 1]
    groups = [{"params": matrices, "weight_decay": params.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=params.learning_rate)


def _batches(
    backbone: Backbone, read_image: ReadImage, image_ids: Sequence[int], params: DinoParams, start: int, seed: int
) -> Iterator[Crops]:
    """Normalised crops of every step from `start` on, made one step ahead in a thread.

    Each: large (2 B, 3, S, S), the first crop of every image and then the second; small (L B, 3, s, s).
    """
    patch = backbone.patch_size
    sizes = {"global_size": params.image_size, "local_size": patch * max(1, round(params.image_size / (2 * patch)))}

    def cut(step: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        larges, smalls = [], []
        for place, image_id in enumerate(images_of_step(image_ids, step, batch_size=params.batch_size, seed=seed)):
            rng = np.random.default_rng((seed, _CROPS, step, place))
            large, small = multi_crop(rng, read_image(image_id), local_crops=params.local_crops, **sizes)
            larges.append(large)
            smalls.append(small)
        return [c for view in zip(*larges, strict=True) for c in view], [
            c for v in zip(*smalls, strict=True) for c in v
        ]

    with ThreadPoolExecutor(1) as ahead:
        pending = ahead.submit(cut, start)
        for step in range(start, params.steps):
            large, small = pending.result()
            pending = ahead.submit(cut, min(step + 1, params.steps - 1))
            yield backbone.normalise(large), backbone.normalise(small) if small else torch.empty(0)
