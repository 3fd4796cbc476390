"""`params.yaml` as frozen, validated models: every number of the method, one section per stage.

An unknown key, a missing key or a value out of range is an error that names the key. Functions that combine steps take
their section; pure functions take keyword-only numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sohes.errors import SohesError
from sohes.project import read_mapping

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScenesParams(Section):
    """The embedded generator (`sohes.data.scenes.render`)."""

    size: Positive  # pixels, square
    train: Positive  # images
    eval: Positive


class FolderParams(Section):
    """A folder of photographs, annotated or not."""

    images: Path | None
    annotations: Path | None  # COCO or COCO panoptic JSON; None: nothing to score against
    eval_fraction: Fraction  # held out from training; 1: use all images for both (see sources.folder); 0: none


class S3Params(Section):
    """Photographs, or packs of them, under an S3 prefix."""

    uri: str | None  # s3://bucket/prefix
    endpoint_url: str | None  # for services other than AWS; None: use AWS_ENDPOINT_URL
    requester_pays: bool
    eval_fraction: Fraction  # of each pack, by name
    digests: Path | None  # of packs, in the format of sha256sum


class Sa1bParams(Section):
    """SA-1B, from its list of signed links."""

    links: Path | None  # two columns, file_name and cdn_link
    packs: Path | None  # names of the packs to use, one per line; None: all of the list
    eval_fraction: Fraction
    digests: Path | None


class ArchivesParams(Section):
    """Tars and zips, by https or as files, such as COCO's."""

    images: tuple[str, ...]
    eval: tuple[str, ...]  # held out as a whole
    annotations: str | None  # COCO instance JSON for `eval`; a file inside an archive is ARCHIVE#FILE
    eval_fraction: Fraction  # of `images`
    digests: Path | None


class PullParams(Section):
    source: Literal["scenes", "folder", "s3", "sa1b", "archives"]
    scenes: ScenesParams
    folder: FolderParams
    s3: S3Params
    sa1b: Sa1bParams
    archives: ArchivesParams
    images_per_shard: Positive
    max_megapixels: Annotated[float, Field(gt=0)]
    max_rejected_fraction: Fraction


class PretrainingParams(Section):
    """What both ways to train the backbone here share."""

    accumulate: ClassVar[int] = 1
    compile: ClassVar[bool] = False
    validate_every: ClassVar[int] = 0

    steps: Positive
    batch_size: Positive
    image_size: Positive  # of the student's views; DINO's local crops are half that
    learning_rate: float
    weight_decay: float
    warmup_steps: Count
    checkpoint_every: Positive

    def _optim(self, *, clip_norm: float, amp: bool) -> RateParams:
        """As the other trainings have it."""
        shared = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "warmup_steps")}
        return RateParams(clip_norm=clip_norm, amp=amp, **shared)


class DinoParams(PretrainingParams):
    """DINO self-distillation on the pulled images (Caron et al., 2021)."""

    workers: ClassVar[int] = 0  # threads of the process make the crops

    local_crops: Count
    prototypes: Positive
    teacher_momentum: Fraction
    teacher_temperature: float
    student_temperature: float

    @property
    def optim(self) -> RateParams:
        return self._optim(clip_norm=3.0, amp=False)  # as published


class VitParams(Section):
    """A ViT and where its weights come from."""

    pretrained: (
        str  # a .safetensors file, or a timm name with weights on the hub; the backbone's also `train`, `distill`
    )
    architecture: str  # timm name of the ViT that `train` and `distill` build, or that a file of bare weights is for
    patch_size: Positive
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    image_size: Positive  # for which the position embeddings are made


class DistillParams(PretrainingParams):
    """The backbone learns the dense features of a larger one on the pulled images (`sohes.train.distill`)."""

    teacher: VitParams
    amp: bool
    workers: Count

    @property
    def optim(self) -> RateParams:
        return self._optim(clip_norm=1.0, amp=self.amp)

    @model_validator(mode="after")
    def _teacher_has_learned(self) -> DistillParams:
        if self.teacher.pretrained in TRAINED_HERE:
            raise ValueError(f"teacher.pretrained must be a file or a timm name (got {self.teacher.pretrained})")
        return self


TRAINED_HERE = ("train", "distill")


class BackboneParams(VitParams):
    dino: DinoParams
    distill: DistillParams

    @property
    def source(self) -> str:
        """The weights whose knowledge the backbone has: a distilled one its teacher's."""
        return self.distill.teacher.pretrained if self.pretrained == "distill" else self.pretrained


class PeersParams(Section):
    """Peers of phase 1 (`sohes.explore.peers`), with their authors' numbers; `threshold_thetas` are ours."""

    maskcut_tau: Annotated[float, Field(ge=-1, le=1)]  # patches with a higher cosine similarity are alike
    maskcut_cuts: Positive  # at most this many objects per image; `divide` starts from them
    hassod_theta_merge: tuple[float, ...]
    threshold_thetas: tuple[float, ...]


# What may differ between the feature maps of phase 1.
OF_A_MAP = {"features", "block", "image_size", "crop_size", "patch_size", "colour_weight", "normalise", "theta_merge"}
OF_A_MAP |= {"theta_small", "nms_iou", "min_crop", "recluster", "min_stability"}


class ExploreParams(Section):
    """Phase 1 (paper 3.1, appendix A)."""

    method: Literal["sohes", "maskcut", "hassod", "divide", "threshold"]  # all but `sohes` are peers, for comparison
    # the backbone's; colour and texture, not learned; or tokens and colour side by side
    features: Literal["tokens", "keys", "values", "handmade", "fused"]
    block: Annotated[int, Field(lt=0)]  # backbone block that features come from, counted from the end; -1: the last
    image_size: Positive  # S
    crop_size: Positive  # S'
    patch_size: Positive  # of handmade and fused features; tokens use the backbone's
    colour_weight: Annotated[float, Field(ge=0)]  # of colour beside tokens; only read with `fused`
    amp: bool  # compute tokens in bf16 autocast: several times faster on a GPU
    normalise: bool  # L2-normalise each patch before averaging
    theta_merge: tuple[float, ...]
    theta_small: Fraction
    theta_cover: Fraction
    nms_iou: Fraction
    min_crop: Positive  # pixels of the original image
    recluster: Literal["small", "all"]  # regions to cluster again in a crop; `all` is not in the paper
    min_stability: Fraction  # keep regions above it and use it as their score; 0: keep all, score 1, as in the paper
    refiner: Literal["none", "guided", "densecrf", "cascadepsp", "crm"]  # the last two were trained on human masks
    refine_min_iou: Fraction
    also: tuple[dict[str, Any], ...]  # further feature maps, whose masks are pooled: each says what differs from above
    images_per_shard: Positive
    max_rejected_fraction: Fraction
    peers: PeersParams

    @property
    def maps(self) -> tuple[ExploreParams, ...]:
        """The params of each feature map: these, and those of `also`."""
        shared = self.model_dump(exclude={"also"})
        return (self, *(ExploreParams.model_validate({**shared, **further, "also": ()}) for further in self.also))

    @model_validator(mode="after")
    def _further_maps(self) -> ExploreParams:
        for further in self.also:
            if other := sorted(set(further) - OF_A_MAP):
                raise ValueError(f"{other[0]} is the same for all feature maps: take it out of `also`")
        if self.also and self.method != "sohes":
            raise ValueError(f"method {self.method} clusters one feature map: leave `also` empty")
        return self if not self.also else (self.maps, self)[1]

    @model_validator(mode="after")
    def _thresholds_fall(self) -> ExploreParams:
        if not self.theta_merge or list(self.theta_merge) != sorted(set(self.theta_merge), reverse=True):
            raise ValueError(f"theta_merge must fall strictly (got {list(self.theta_merge)})")
        return self


class AdapterParams(Section):
    """ViT-Adapter (Chen et al., 2022)."""

    interactions: Positive  # injector + extractor pairs, spread evenly over the ViT's blocks
    stem_dim: Positive  # channels of the spatial prior module's first convolution
    num_heads: Positive  # of the deformable attention
    points: Positive


class CascadeParams(Section):
    """Cascade Mask R-CNN (table 8); only read with the cascade heads."""

    ious: Annotated[tuple[Fraction, ...], Field(min_length=1)]  # per box stage: IoU of a correct box
    proposals: Positive  # boxes per image that enter the first stage
    samples: Positive  # how many of them are used in training
    anchor_scale: Annotated[float, Field(gt=0)]  # side of a level's anchors, in strides of the level
    nms_iou: Fraction  # of boxes; a part's box can fill most of its whole's
    theta_cover: Fraction  # builds the forest by coverage, since there is no ancestor head


class ModelParams(Section):
    """Segmenter: ViT + ViT-Adapter + Mask2Former + ancestor head (paper 3.2), or Cascade Mask R-CNN (table 8)."""

    head: Literal["mask2former", "cascade", "detectron2-cascade"]
    image_size: Positive  # side of the square that the network sees
    hidden_dim: Positive  # C
    num_queries: Positive  # with `grid`: 21 times a square number
    queries: Literal["learned", "grid"]  # grid: sampled from the mask features at fixed positions
    num_heads: Positive
    feedforward_dim: Positive
    pixel_decoder_layers: Positive
    decoder_layers: Positive
    recompute_blocks: bool  # recompute the ViT's activations in the backward pass: less memory, about 1/3 more time
    adapter: AdapterParams
    cascade: CascadeParams


class LossParams(Section):
    """Loss of the mask2former head."""

    class_weight: float
    mask_weight: float
    dice_weight: float
    ancestor_weight: float
    no_object_weight: float
    num_points: Count  # sampled per mask; 0: use every cell of the mask map
    oversample_ratio: Annotated[float, Field(ge=1)]  # candidates per point, so at least 1
    importance_fraction: Fraction
    deep_supervision: bool
    matched_only: bool  # ancestor loss on matched queries only, not on all N x N


class AugmentParams(Section):
    """The strong view; the weak one flips and resizes only."""

    scale_min: float  # large-scale jitter, as a factor of the fitted size
    scale_max: float
    colour_jitter: Fraction
    greyscale: Fraction  # probability
    blur: Fraction  # probability
    copy_paste: Fraction  # probability


class RateParams(Section):
    learning_rate: float
    weight_decay: float
    warmup_steps: Count
    clip_norm: float
    amp: bool  # bf16 autocast, on a GPU and on a CPU with bf16 instructions; others compute in float32


class OptimParams(RateParams):
    backbone_lr_scale: Annotated[float, Field(ge=0)]  # 0: the ViT is frozen; only what stands around it learns


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
    gamma: float
    nms_iou: Fraction  # duplicates among the teacher's masks
    theta_cover: Fraction  # for the hierarchy of the teacher's masks
    parent_crops: Count  # crops of the teacher's largest masks to predict again; 0: none, as in the paper
    parent_min_fraction: Fraction  # of the image; smaller masks are not cropped
    child_cover: Fraction  # of a mask found in a crop: how much must lie inside the cropped mask
    tiles: TilesParams  # the teacher's closer look


class EvaluateParams(Section):
    max_masks: Positive
    mask_threshold: Fraction
    nms_iou: Fraction
    ancestor_threshold: Fraction
    refiner: Literal["none", "guided", "densecrf"]  # phase 1's, on predictions; not in the paper
    refine_size: Positive  # the refiner works on images scaled to this longer side, in pixels
    refine_min_iou: Fraction
    tiles: TilesParams
    theta_cover: Fraction  # for the forest over several windows; within one, the network knows the ancestors
    batch_size: Positive  # windows at once
    images_per_shard: Positive


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


class ReportParams(Section):
    pictures: Positive  # example images


class Params(Section):
    seed: int
    pull: PullParams
    backbone: BackboneParams
    explore: ExploreParams
    model: ModelParams
    loss: LossParams
    instruct: InstructParams
    correct: CorrectParams
    evaluate: EvaluateParams
    downstream: DownstreamParams
    report: ReportParams


TEMPLATE = Path(__file__).parents[1] / "params.yaml"  # in a checkout: the profile that comes with the code


def load_params(path: Path) -> Params:
    """Read and validate a params file. SohesError names the file, the key and the problem."""
    try:
        return Params.model_validate(read_mapping(path))
    except FileNotFoundError:
        raise SohesError(f"no params file at {path}: run in the project's folder, or name one with --params") from None
    except ValidationError as error:
        raise SohesError(f"{path}: {'; '.join(_sentence(e) for e in error.errors())}") from None


def load_params_anywhere(path: Path) -> Params:
    """`load_params` for commands that need no project: falls back to the profile that comes with the code."""
    return load_params(TEMPLATE if path == Path(TEMPLATE.name) and not path.exists() and TEMPLATE.exists() else path)


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}: remove it or fix its spelling"
    if detail["type"] == "missing":
        return f"missing key {key}"
    return f"{key}: {detail['msg']} (got {detail['input']!r})"
