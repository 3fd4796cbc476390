"""The backbone and the trainings that it can get here."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from sohes.params.section import Amount, Count, Fraction, NameOrFile, Positive, Scale, Section
from sohes.params.training import RateParams

TRAINED_HERE = ("train", "distill")  # `backbone.pretrained` of weights that are made here
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")  # how its files end


def weights_in(root: Path, pretrained: str) -> str:
    """What `pretrained` names, a file's path starting at the project's folder `root`."""
    return str(root / pretrained) if pretrained.endswith(WEIGHT_FILES) else pretrained


class PretrainingParams(Section):
    """What both ways to train the backbone here share."""

    accumulate: ClassVar[int] = 1
    compile: ClassVar[bool] = False
    validate_every: ClassVar[int] = 0

    steps: Positive
    """Steps of training."""
    batch_size: Positive
    """Photographs per step, over all processes."""
    image_size: Positive
    """Side of the student's views, in pixels; DINO's local crops have half of it."""
    learning_rate: Amount
    """The highest rate, after the warm-up; from there it falls along a cosine."""
    weight_decay: Amount
    """Decay of weight matrices; biases, norms and single tokens have none."""
    warmup_steps: Count
    """Steps in which the learning rate rises to its peak."""
    checkpoint_every: Positive
    """Steps from one checkpoint, where training can resume, to the next."""

    def _optim(self, *, clip_norm: float, amp: bool) -> RateParams:
        """As the other trainings have it."""
        shared = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "warmup_steps")}
        return RateParams(clip_norm=clip_norm, amp=amp, **shared)


class DinoParams(PretrainingParams):
    """DINO self-distillation on the pulled images (Caron et al., 2021)."""

    workers: ClassVar[int] = 0  # threads of the process make the crops

    local_crops: Count
    """Small crops of each photograph, beside two large ones."""
    prototypes: Positive
    """Outputs of the head, over which student and teacher are compared."""
    teacher_momentum: Fraction
    """Share of its weights that the teacher keeps in a step; rises to 1."""
    teacher_temperature: Scale
    """Divides the teacher's outputs: a lower one makes it more certain."""
    student_temperature: Scale
    """Divides the student's outputs."""

    @property
    def optim(self) -> RateParams:
        return self._optim(clip_norm=3.0, amp=False)  # as published


class VitParams(Section):
    """A ViT and where its weights come from."""

    pretrained: NameOrFile
    """A .safetensors file, or a timm name with weights on the hub; the backbone's also `train`, `distill`."""
    architecture: str
    """The timm name of the ViT that `train` and `distill` build, or that a file of bare weights is for."""
    patch_size: Positive
    """Side of a patch, in pixels."""
    embed_dim: Positive
    """Channels of a token."""
    depth: Positive
    """Blocks of the transformer."""
    num_heads: Positive
    """Attention heads of a block."""
    image_size: Positive
    """Side, in pixels, for which the position embeddings are made."""

    @model_validator(mode="after")
    def _is_made_of_whole_heads_and_patches(self) -> VitParams:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} must divide embed_dim {self.embed_dim}")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide image_size {self.image_size}")
        return self


class DistillParams(PretrainingParams):
    """The backbone learns the dense features of a larger one on the pulled images (`sohes.train.distill`)."""

    teacher: VitParams
    amp: bool
    """Compute in bf16 autocast, as in `instruct.optim`."""
    workers: Count
    """Processes that read photographs ahead; 0: none, the training reads them itself."""

    @property
    def optim(self) -> RateParams:
        return self._optim(clip_norm=1.0, amp=self.amp)

    @model_validator(mode="after")
    def _teacher_has_learned(self) -> DistillParams:
        if self.teacher.pretrained in TRAINED_HERE:
            raise ValueError(f"teacher.pretrained must be a file or a timm name (got {self.teacher.pretrained})")
        return self


class BackboneParams(VitParams):
    """The ViT that phase 1 reads features from and that phases 2 and 3 build on."""

    dino: DinoParams
    distill: DistillParams

    @model_validator(mode="after")
    def _learns_from_whole_patches(self) -> BackboneParams:
        learns = {"train": ("dino", self.dino.image_size), "distill": ("distill", self.distill.image_size)}
        name, size = learns.get(self.pretrained, ("", 0))
        if size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide {name}.image_size {size}")
        return self

    @property
    def source(self) -> str:
        """The weights whose knowledge the backbone has: a distilled one its teacher's."""
        return self.distill.teacher.pretrained if self.pretrained == "distill" else self.pretrained
