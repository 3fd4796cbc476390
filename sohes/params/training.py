"""The trainings of the network, and the probes on the frozen ViT."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from sohes.params.section import Amount, Count, Fraction, Positive, Scale, Section


class AugmentParams(Section):
    """The strong view; the weak one flips and resizes only."""

    scale_min: Scale  # large-scale jitter, as a factor of the fitted size
    scale_max: Scale
    colour_jitter: Fraction
    greyscale: Fraction  # probability
    blur: Fraction  # probability
    copy_paste: Fraction  # probability

    @model_validator(mode="after")
    def _in_order(self) -> AugmentParams:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min:g} must not exceed scale_max {self.scale_max:g}")
        return self


class RateParams(Section):
    learning_rate: Amount
    weight_decay: Amount
    warmup_steps: Count
    clip_norm: Amount  # 0: not at all
    amp: bool  # bf16 autocast, on a GPU and on a CPU with bf16 instructions; others compute in float32


class OptimParams(RateParams):
    backbone_lr_scale: Amount  # 0: the ViT is frozen; only what stands around it learns


class ProbeOptimParams(RateParams):
    backbone_lr_scale: ClassVar[float] = 0.0  # the ViT is frozen


class TrainingParams(Section):
    """What phases 2 and 3 share."""

    steps: Positive
    batch_size: Positive  # images per step, over all processes; phase 3: in each of its two branches
    accumulate: Positive  # parts that each step's batch is split into
    max_targets: Positive
    optim: OptimParams
    augment: AugmentParams
    workers: Count
    compile: bool  # the network, by torch.compile
    checkpoint_every: Positive
    validate_every: Count  # steps; 0: never. Needs annotated evaluation images

    @model_validator(mode="after")
    def _parts_are_whole_images(self) -> TrainingParams:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} must divide batch_size {self.batch_size}")
        return self


class InstructParams(TrainingParams):
    """Phase 2 (paper 3.2)."""

    ema: Fraction  # momentum of the averaged weights that are saved; 0: save those of the last step


class TilesParams(Section):
    """A closer look at smaller windows of each image (`sohes.masks.windows`); not in the paper."""

    levels: tuple[
        Annotated[float, Field(ge=0.1, le=1)], ...
    ]  # sides, of the image's; [] or [1.0]: only the whole image
    overlap: Annotated[float, Field(ge=0, le=0.5)]  # of a window's side: what neighbours share, at least
    score_factor: Fraction  # on scores of the first level below 1; squared on the second, and so on


class CorrectParams(TrainingParams):
    """Phase 3 (paper 3.3)."""

    teacher_momentum: Fraction
    theta_score_small: Fraction
    theta_score_large: Fraction
    gamma: Amount
    nms_iou: Fraction  # duplicates among the teacher's masks
    theta_cover: Fraction  # for the hierarchy of the teacher's masks
    parent_crops: Count  # crops of the teacher's largest masks to predict again; 0: none, as in the paper
    parent_min_fraction: Fraction  # of the image; smaller masks are not cropped
    child_cover: Fraction  # of a mask found in a crop: how much must lie inside the cropped mask
    tiles: TilesParams  # the teacher's closer look


class DownstreamParams(Section):
    """Supervised tasks on the frozen ViT (paper 4.4, figure 6); the paper gives no numbers."""

    validate_every: ClassVar[int] = 0  # a probe is scored once, at the end
    compile: ClassVar[bool] = False  # torchvision's detector branches on values

    image_size: Positive  # side of the square that the probe sees
    detection_dim: Positive  # channels of RetinaNet's maps
    steps: Positive
    batch_size: Positive
    accumulate: Positive
    optim: ProbeOptimParams
    workers: Count
    checkpoint_every: Positive
