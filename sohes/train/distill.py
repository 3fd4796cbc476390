"""A small backbone learns the dense features of a larger one, its teacher, on photographs without labels.

The student predicts the teacher's patch tokens behind the last norm through a linear head, which is not kept. Both see
the same view, the teacher resized so that its grid of patches is the student's, so every token has its counterpart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sohes.backbone.vit import Backbone
from sohes.params import DistillParams
from sohes.train.crops import ViewBatch
from sohes.train.loop import Learner
from sohes.train.optim import make_adamw
from sohes.train.world import World

LEAST_RATE = 0.01  # of the running moments: they are means over all steps at first, then over about a hundred


class Student(nn.Module):
    """A backbone with a linear head to the teacher's channels."""

    def __init__(self, backbone: Backbone, teacher_dim: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.embed_dim, teacher_dim)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, N, teacher_dim) of the patches."""
        return self.head(_patches(self.backbone, images_B3HW))


class Imitation(Learner[Student]):
    """The student learns; the teacher is no part of what is saved or sent to other processes."""

    moments_2C: Tensor
    seen: Tensor

    def __init__(
        self, backbone: Backbone, teacher: Backbone, params: DistillParams, world: World, *, seed: int
    ) -> None:
        torch.manual_seed(seed)  # the head's first weights
        super().__init__(Student(backbone, teacher.embed_dim), averaged=False)
        self._teacher = (teacher.freeze().to(world.device),)  # in a tuple, so that it is no submodule
        self.world = world
        self.side = params.image_size // backbone.patch_size * teacher.patch_size
        self.register_buffer("moments_2C", torch.zeros(2, teacher.embed_dim))  # means of the values and their squares
        self.register_buffer("seen", torch.zeros(()))

    def optimizer(self, params: DistillParams) -> torch.optim.Optimizer:
        return make_adamw(self.network, params.optim)

    def remedy(self, title: str) -> str:
        return f"lower {title}.distill.learning_rate, or set {title}.distill.amp to false"

    def forward(self, batch: ViewBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` and its summands `cosine` and `distance`, of features that are standardised by channel."""
        pixels_B3HW = batch.pixels_BHW3.permute(0, 3, 1, 2).float() / 255
        wanted_BNC = self._targets(pixels_B3HW)
        guess_BNC = self.network(_normalised(self.network.backbone, pixels_B3HW)).float()
        cosine = 1 - F.cosine_similarity(guess_BNC, wanted_BNC, dim=-1).mean()
        distance = F.smooth_l1_loss(guess_BNC, wanted_BNC)
        return {"loss": cosine + distance, "cosine": cosine.detach(), "distance": distance.detach()}

    @torch.no_grad()
    def _targets(self, pixels_B3HW: Tensor) -> Tensor:
        """(B, N, C) float32; the channels' running moments are of all processes' views."""
        (teacher,) = self._teacher
        if self.side != pixels_B3HW.shape[-1]:
            pixels_B3HW = F.interpolate(pixels_B3HW, size=(self.side, self.side), mode="bilinear", antialias=True)
        tokens_BNC = _patches(teacher, _normalised(teacher, pixels_B3HW)).float()
        moments_2C = self.world.mean(torch.stack([tokens_BNC.mean((0, 1)), tokens_BNC.square().mean((0, 1))]))
        rate = (1 / (self.seen + 1)).clamp(min=LEAST_RATE)
        self.moments_2C, self.seen = self.moments_2C.lerp(moments_2C, rate), self.seen + 1
        mean_C, square_C = self.moments_2C
        return (tokens_BNC - mean_C) / (square_C - mean_C.square()).clamp(min=1e-6).sqrt()


def _patches(backbone: Backbone, images_B3HW: Tensor) -> Tensor:
    """(B, N, C) tokens of the patches behind the last norm."""
    return backbone.features(images_B3HW)[0][:, backbone.num_prefix_tokens :]


def _normalised(backbone: Backbone, images_B3HW: Tensor) -> Tensor:
    """As the backbone's weights want it; channel by channel, since a tensor of means would make a GPU wait."""
    channels = zip(images_B3HW.unbind(1), backbone.mean, backbone.std, strict=True)
    return torch.stack([(channel - mean) / std for channel, mean, std in channels], 1)
