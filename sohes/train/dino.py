"""DINO: a student learns to predict, from any crop of an image, what its own moving average sees in a large one.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (2021). The demo trains its backbone this
way; the paper's profile takes published weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sohes.backbone.vit import Backbone
from sohes.params import DinoParams
from sohes.train.crops import CropBatch
from sohes.train.loop import Learner
from sohes.train.optim import make_adamw
from sohes.train.world import World

CENTRE_MOMENTUM = 0.9
FINAL_RATE = 1e-6
BOTTLENECK = 256  # the head's last hidden layer, as published; a narrow ViT has half its own width
WIDEST = 2048  # the head's other layers, as published; a narrow ViT has four times its own width


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
        # about unit length: Adam's steps turn shorter ones further
        nn.init.normal_(self.prototypes, std=bottleneck**-0.5)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, embeddings_BC: Tensor) -> Tensor:
        return F.normalize(self.mlp(embeddings_BC), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class Network(nn.Module):
    """A backbone with a head on its image embedding, the mean of its patch tokens.

    The original takes the class token. Here patch tokens are what everything else reads, so the loss acts on them.
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


def moved_centre(centre_K: Tensor, teacher_GBK: Sequence[Tensor], world: World) -> Tensor:
    """The running mean of the teacher's logits, which keeps one prototype from winning everywhere (equation 4)."""
    return centre_K.lerp(world.mean(torch.cat(list(teacher_GBK)).mean(0)), 1 - CENTRE_MOMENTUM)


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


# ---------------------------------------------------------------- the training


class Dino(Learner[Network]):
    """Student (`network`) and teacher (`average`), whose weights are the better ones and are kept (section 5.2)."""

    centre_K: Tensor

    def __init__(self, backbone: Backbone, params: DinoParams, world: World, *, seed: int) -> None:
        torch.manual_seed(seed)  # the head's first weights
        super().__init__(Network(backbone, params.prototypes), averaged=True)
        self.params, self.world = params, world
        self.register_buffer("centre_K", torch.zeros(params.prototypes))

    def optimizer(self, params: DinoParams) -> torch.optim.Optimizer:
        return make_adamw(self.network, params.optim)

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int, params: object) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, self.params)

    def momentum(self, step: int) -> float:
        return momentum_at(step, self.params)

    def remedy(self, title: str) -> str:
        return f"lower {title}.dino.learning_rate"

    def forward(self, batch: CropBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss`, and the signs of collapse of `spread`."""
        assert self.average is not None
        with torch.no_grad():
            targets_GBK = self.average(batch.large).chunk(2)
        guesses_VBK = self.network(batch.large).chunk(2)
        if batch.small is not None:
            guesses_VBK += self.network(batch.small).chunk(self.params.local_crops)
        temperature = self.params.teacher_temperature
        loss = dino_loss(
            guesses_VBK,
            targets_GBK,
            self.centre_K,
            teacher_temperature=temperature,
            student_temperature=self.params.student_temperature,
        )
        measured = spread(targets_GBK, self.centre_K, teacher_temperature=temperature)
        self.centre_K = moved_centre(self.centre_K, targets_GBK, self.world)
        return {"loss": loss, **measured}

    def after_backward(self, step: int) -> None:
        """The original, too, holds its last layer still at first (an epoch)."""
        if step < self.params.warmup_steps:
            self.network.head.prototypes.grad = None


@torch.no_grad()
def spread(targets_GBK: Sequence[Tensor], centre_K: Tensor, *, teacher_temperature: float) -> dict[str, Tensor]:
    """Signs of collapse, in nats: `entropy` of each target (high: uniform everywhere) and `diversity`, the entropy of
    their mean less theirs (0: the same target for every image)."""
    targets_NK = F.softmax((torch.cat(list(targets_GBK)) - centre_K) / teacher_temperature, -1)
    each, together = torch.special.entr(targets_NK).sum(-1).mean(), torch.special.entr(targets_NK.mean(0)).sum()
    return {"entropy": each, "diversity": together - each}
