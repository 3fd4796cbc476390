"""The trainings of the network, and the probes on the frozen ViT."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from sohes.params.section import Amount, Count, Fraction, NameOrFile, Positive, Scale, Section


class AugmentParams(Section):
    """The strong view; the weak one flips and resizes only."""

    scale_min: Scale
    """Large-scale jitter: the smallest factor on the fitted size."""
    scale_max: Scale
    """Large-scale jitter: the largest factor."""
    colour_jitter: Fraction
    """Strength of changes of brightness, contrast, saturation and hue."""
    greyscale: Fraction
    """Probability of an image without colours."""
    blur: Fraction
    """Probability of a blurred image."""
    copy_paste: Fraction
    """Probability that an entity of another image is pasted in."""

    @model_validator(mode="after")
    def _in_order(self) -> AugmentParams:
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min:g} must not exceed scale_max {self.scale_max:g}")
        return self


class RateParams(Section):
    """How fast a training learns."""

    learning_rate: Amount
    """The highest rate, after the warm-up; from there it falls along a cosine."""
    weight_decay: Amount
    """Decay of weight matrices; biases, norms and embeddings have none."""
    warmup_steps: Count
    """Steps in which the learning rate rises to its peak."""
    clip_norm: Amount
    """Longer gradients are shortened to this norm; 0: not at all."""
    amp: bool
    """Compute in bf16 autocast, on a GPU and on a CPU with bf16 instructions; others compute in float32."""


class OptimParams(RateParams):
    """The optimizer, Adan."""

    backbone_lr_scale: Amount
    """Factor on the ViT's rate; 0: the ViT is frozen, only what stands around it learns."""


class ProbeOptimParams(RateParams):
    """The optimizer, Adan, where the ViT is frozen."""

    backbone_lr_scale: ClassVar[float] = 0.0


class TrainingParams(Section):
    """What phases 2 and 3 share."""

    steps: Positive
    """Steps of training."""
    batch_size: Positive
    """Images per step, over all processes; phase 3: in each of its two branches."""
    accumulate: Positive
    """Parts of each step's batch, to need less memory; each is normalised by its own masks, and counts alike."""
    max_targets: Positive
    """The most masks of an image that a step learns from, taken across all sizes."""
    optim: OptimParams
    augment: AugmentParams
    workers: Count
    """Processes that read photographs ahead; 0: none, the training reads them itself."""
    compile: bool
    """Compile the network by torch.compile: faster steps on a GPU after minutes of compiling."""
    checkpoint_every: Positive
    """Steps from one checkpoint, where training can resume, to the next."""
    validate_every: Count
    """Steps from one validation to the next, which needs annotated evaluation images; 0: never."""

    @model_validator(mode="after")
    def _parts_are_whole_images(self) -> TrainingParams:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate} must divide batch_size {self.batch_size}")
        return self


class InstructParams(TrainingParams):
    """Phase 2 (paper 3.2)."""

    start: NameOrFile | None
    """A trained model whose weights it begins with, where they fit: `small`, or a file; null: none."""
    backbone_of_start: bool
    """Train the ViT of `start`, too; the backbone of the params then only finds the pseudo-labels."""
    ema: Fraction
    """Momentum of the averaged weights that are saved; 0: save those of the last step."""

    @model_validator(mode="after")
    def _has_a_backbone(self) -> InstructParams:
        if self.backbone_of_start and self.start is None:
            raise ValueError("backbone_of_start needs a model: set start, too, to small or to a file")
        return self


WindowSide = Annotated[float, Field(ge=0.1, le=1)]


class TilesParams(Section):
    """A closer look at smaller windows of each image (`sohes.masks.windows`); not in the paper."""

    levels: tuple[WindowSide, ...]
    """Sides of the windows, as shares of the image's; [] or [1.0]: only the whole image."""
    overlap: Annotated[float, Field(ge=0, le=0.5)]
    """Share of a window's side that neighbours have in common, at least."""
    score_factor: Fraction
    """Factor on scores of the first level below 1; squared on the second, and so on."""


class CorrectParams(TrainingParams):
    """Phase 3 (paper 3.3)."""

    teacher_momentum: Fraction
    """Share of its weights that the teacher keeps in a step; the rest is the student's."""
    theta_score_small: Fraction
    """Score that the smallest of the teacher's masks need."""
    theta_score_large: Fraction
    """Score that the largest of the teacher's masks need; in the paper more than the smallest need."""
    gamma: Amount
    """How steeply the needed score changes with a mask's share of the image."""
    nms_iou: Fraction
    """Ours: a mask of the teacher with a higher IoU to a better one, or to a label that is kept, is left out."""
    theta_cover: Fraction
    """A mask that is taught is part of another if at least this share of it is covered."""
    parent_crops: Count
    """Crops of the teacher's largest masks to predict again; 0: none, as in the paper."""
    parent_min_fraction: Fraction
    """Masks that are a smaller share of the image are not cropped."""
    child_cover: Fraction
    """How much of a mask found in a crop must lie inside the cropped mask."""
    tiles: TilesParams
    """The teacher's closer look."""
    refiner: Literal["none", "guided"]
    """Moves the outlines of the teacher's masks to the photograph's edges, on the CPU; none, as in the paper."""
    refine_min_iou: Fraction
    """A mask whose IoU with its refined self is lower stays unrefined; not read with `none`."""
    keep_labels: bool
    """Labels stay, and the teacher adds what resembles none; false, as in the paper: only its masks are taught."""
    hold_free: bool
    """Queries that learn no mask are held to what the teacher's draw; false, as in the paper; for mask2former."""
    no_object_weight: Amount
    """As `loss.no_object_weight`, where a mask2former is taught the teacher's masks; 0: it calls no query nothing."""


class DownstreamParams(Section):
    """Supervised tasks on the frozen ViT (paper 4.4, figure 6); the paper gives no numbers."""

    validate_every: ClassVar[int] = 0  # a probe is scored once, at the end
    compile: ClassVar[bool] = False  # torchvision's detector branches on values

    image_size: Positive
    """Side of the square that the probe sees, in pixels."""
    detection_dim: Positive
    """Channels of RetinaNet's maps."""
    steps: Positive
    """Steps of training, for each probe."""
    batch_size: Positive
    """Images per step, over all processes."""
    accumulate: Positive
    """Parts that each step's batch is split into, to need less memory."""
    optim: ProbeOptimParams
    workers: Count
    """Processes that read photographs ahead; 0: none, the training reads them itself."""
    checkpoint_every: Positive
    """Steps from one checkpoint, where training can resume, to the next."""
