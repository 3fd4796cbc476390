"""`params.yaml` as frozen, validated models: every number of the method, one section per stage.

An unknown key, a missing key or a value out of range is an error that names itself. A composing function takes its
own section; a pure function takes keyword-only numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sohes.errors import SohesError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- pull


class ScenesParams(Section):
    """The embedded generator (`sohes.data.scenes.render`)."""

    size: Positive  # pixels, square
    train: Positive  # images
    eval: Positive


class FolderParams(Section):
    """A folder of photographs, annotated or not."""

    images: Path | None
    annotations: Path | None  # COCO JSON or COCO panoptic JSON; None: nothing to score against
    eval_fraction: Fraction  # held out of training; 1: all images on both sides (see sources.folder); 0: none


class S3Params(Section):
    """Photographs and packs of them under an S3 prefix."""

    uri: str | None  # s3://bucket/prefix
    endpoint_url: str | None  # another service than AWS's; None: AWS_ENDPOINT_URL decides
    requester_pays: bool
    eval_fraction: Fraction  # of each pack, by name
    digests: Path | None  # of packs, as sha256sum writes them


class Sa1bParams(Section):
    """SA-1B by its list of signed links."""

    links: Path | None  # two columns, file_name and cdn_link
    packs: Path | None  # names of the packs to take, one a line; None: all that the list has
    eval_fraction: Fraction
    digests: Path | None


class ArchivesParams(Section):
    """Tars and zips by https or from a file, COCO's for one."""

    images: tuple[str, ...]
    eval: tuple[str, ...]  # held out whole
    annotations: str | None  # COCO instance JSON of `eval`; a file inside an archive follows a #
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


# ---------------------------------------------------------------- backbone


class DinoParams(Section):
    """DINO self-distillation on the pulled images (Caron et al., 2021)."""

    accumulate: ClassVar[int] = 1
    workers: ClassVar[int] = 0  # threads of the process make the crops
    compile: ClassVar[bool] = False
    validate_every: ClassVar[int] = 0

    steps: Positive
    batch_size: Positive
    image_size: Positive  # of a global crop; local crops are half of it
    local_crops: Count
    learning_rate: float
    weight_decay: float
    warmup_steps: Count
    prototypes: Positive
    teacher_momentum: Fraction
    teacher_temperature: float
    student_temperature: float
    checkpoint_every: Positive

    @property
    def optim(self) -> RateParams:
        """As the other trainings have it; the clipping is as published."""
        shared = {name: getattr(self, name) for name in ("learning_rate", "weight_decay", "warmup_steps")}
        return RateParams(clip_norm=3.0, amp=False, **shared)


class BackboneParams(Section):
    pretrained: str  # `train`, a .safetensors file, or a timm name whose weights the hub has
    architecture: str  # timm name of the ViT that `train` builds
    patch_size: Positive
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    image_size: Positive  # the size that the position embeddings are made for
    dino: DinoParams


# ---------------------------------------------------------------- explore


class PeersParams(Section):
    """What phase 1 is compared with (`sohes.explore.peers`), at its authors' numbers; the last are ours."""

    maskcut_tau: Annotated[float, Field(ge=-1, le=1)]  # patches of a higher cosine are alike
    maskcut_cuts: Positive  # objects of an image, at most; `divide` starts from them
    hassod_theta_merge: tuple[float, ...]
    threshold_thetas: tuple[float, ...]


class ExploreParams(Section):
    """Phase 1 (paper 3.1, appendix A)."""

    method: Literal["sohes", "maskcut", "hassod", "divide", "threshold"]  # the others are its peers, to compare
    features: Literal["tokens", "keys", "values", "handmade"]  # of the backbone, or colour and texture (not learned)
    block: Annotated[int, Field(lt=0)]  # of the backbone, counted from its end, whose features they are; -1: the last
    image_size: Positive  # S
    crop_size: Positive  # S'
    patch_size: Positive  # of the handmade features; tokens have their backbone's
    amp: bool  # tokens in bf16 autocast: on a GPU several times as fast
    normalise: bool  # L2-normalise each patch before averaging
    theta_merge: tuple[float, ...]
    theta_small: Fraction
    theta_cover: Fraction
    nms_iou: Fraction
    min_crop: Positive  # pixels of the original image
    recluster: Literal["small", "all"]  # what is looked at again; all regions, not only small ones: not in the paper
    min_stability: Fraction  # of a region, which then is its score; 0: all regions, of score 1, as in the paper
    refiner: Literal["none", "guided", "densecrf", "cascadepsp", "crm"]  # the last two were trained on human masks
    refine_min_iou: Fraction
    images_per_shard: Positive
    max_rejected_fraction: Fraction
    peers: PeersParams

    @model_validator(mode="after")
    def _thresholds_fall(self) -> ExploreParams:
        if not self.theta_merge or list(self.theta_merge) != sorted(set(self.theta_merge), reverse=True):
            raise ValueError(f"theta_merge must fall strictly (got {list(self.theta_merge)})")
        return self


# ---------------------------------------------------------------- model, losses, augmentation


class AdapterParams(Section):
    """ViT-Adapter (Chen et al., 2022)."""

    interactions: Positive  # injector + extractor pairs, spread evenly over the ViT's blocks
    stem_dim: Positive  # channels of the spatial prior module's first convolution
    num_heads: Positive  # of the deformable attention
    points: Positive


class CascadeParams(Section):
    """Cascade Mask R-CNN (table 8); only read with the cascade heads."""

    ious: tuple[Fraction, ...]  # of the box stages: from which overlap on a box counts as right
    proposals: Positive  # boxes of an image that go on to the first stage
    samples: Positive  # of them that are trained on
    anchor_scale: Annotated[float, Field(gt=0)]  # side of a level's anchors, in its strides
    nms_iou: Fraction  # of boxes: a part may fill much of its whole's
    theta_cover: Fraction  # the forest of the masks, by coverage: there is no ancestor head

    @model_validator(mode="after")
    def _has_a_stage(self) -> CascadeParams:
        if not self.ious:
            raise ValueError("ious needs one IoU or more")
        return self


class ModelParams(Section):
    """Segmenter: ViT + ViT-Adapter + Mask2Former + ancestor head (paper 3.2), or Cascade Mask R-CNN (table 8)."""

    head: Literal["mask2former", "cascade", "detectron2-cascade"]
    image_size: Positive  # the square that the network sees
    hidden_dim: Positive  # C
    num_queries: Positive  # grid: 21 times a square
    queries: Literal["learned", "grid"]  # grid: sampled from the mask features at fixed places
    num_heads: Positive
    feedforward_dim: Positive
    pixel_decoder_layers: Positive
    decoder_layers: Positive
    recompute_blocks: bool  # the ViT's activations in the backward pass: less memory, about a third more time
    adapter: AdapterParams
    cascade: CascadeParams


class LossParams(Section):
    """Of the mask2former head."""

    class_weight: float
    mask_weight: float
    dice_weight: float
    ancestor_weight: float
    no_object_weight: float
    num_points: Count  # sampled per mask; 0: every cell of the mask map
    oversample_ratio: Annotated[float, Field(ge=1)]  # fewer candidates than points cannot be chosen from
    importance_fraction: Fraction
    deep_supervision: bool
    matched_only: bool  # ancestor loss on matched queries only, instead of all N x N


class AugmentParams(Section):
    """The strong view; the weak one flips and resizes only."""

    scale_min: float  # large-scale jitter, factor on the fitted size
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
    amp: bool  # bf16 autocast


class OptimParams(RateParams):
    backbone_lr_scale: float


class ProbeOptimParams(RateParams):
    backbone_lr_scale: ClassVar[float] = 0.0  # the ViT is frozen


class InstructParams(Section):
    """Phase 2 (paper 3.2)."""

    steps: Positive
    batch_size: Positive  # images a step, over all processes
    accumulate: Positive  # parts that a step's batch is cut into
    max_targets: Positive
    optim: OptimParams
    augment: AugmentParams
    ema: Fraction  # momentum of the weights that are kept; 0: the last step's
    workers: Count
    compile: bool  # the network, by torch.compile
    checkpoint_every: Positive
    validate_every: Count  # steps; 0: never. Needs annotated evaluation images


class CorrectParams(Section):
    """Phase 3 (paper 3.3)."""

    steps: Positive
    batch_size: Positive  # images of each of the two branches
    accumulate: Positive
    max_targets: Positive
    optim: OptimParams
    augment: AugmentParams
    teacher_momentum: Fraction
    theta_score_small: Fraction
    theta_score_large: Fraction
    gamma: float
    nms_iou: Fraction  # duplicates among the teacher's masks
    theta_cover: Fraction  # the hierarchy of the teacher's masks
    parent_crops: Count  # the teacher also looks into so many of its largest masks; 0: as in the paper
    parent_min_fraction: Fraction  # of the image: smaller masks are not looked into
    child_cover: Fraction  # of a mask found in a crop, what must lie in the mask that was cropped
    workers: Count
    compile: bool  # the network, by torch.compile
    checkpoint_every: Positive
    validate_every: Count  # steps; 0: never. Needs annotated evaluation images


# ---------------------------------------------------------------- evaluate, report


class EvaluateParams(Section):
    max_masks: Positive
    mask_threshold: Fraction
    nms_iou: Fraction
    ancestor_threshold: Fraction
    refiner: Literal["none", "guided", "densecrf"]  # ours: phase 1's, on the network's masks; the paper has none here
    refine_size: Positive  # pixels of the longer side of what it works on
    refine_min_iou: Fraction
    batch_size: Positive
    images_per_shard: Positive


class DownstreamParams(Section):
    """Supervised tasks on the frozen ViT (paper 4.4, figure 6); no number of it is in the paper."""

    validate_every: ClassVar[int] = 0  # a probe is scored once, at the end
    compile: ClassVar[bool] = False  # torchvision's detector branches on values

    image_size: Positive  # the square that the probe sees
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


TEMPLATE = Path(__file__).parents[1] / "params.yaml"  # of a checkout: the profile that comes with the code


def load_params(path: Path) -> Params:
    """Read and validate a params file. SohesError names the file, the key and what is wrong with it."""
    try:
        return Params.model_validate(read_mapping(path))
    except FileNotFoundError:
        raise SohesError(f"no params file at {path}: run in the project's folder or name one with --params") from None
    except ValidationError as error:
        raise SohesError(f"{path}: {'; '.join(_sentence(e) for e in error.errors())}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. SohesError if it is not UTF-8 text, not YAML, empty or something else."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise SohesError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8, or name another") from None
    except yaml.YAMLError as error:
        raise SohesError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "empty" if raw is None else f"a {type(raw).__name__} and not a mapping of keys to values"
        raise SohesError(f"{path} is {found}: mend it, or copy one that comes with the code")
    return raw


def load_params_anywhere(path: Path) -> Params:
    """`load_params` for what needs no project: without a `params.yaml` in the folder, the profile beside the code."""
    return load_params(TEMPLATE if path == Path(TEMPLATE.name) and not path.exists() and TEMPLATE.exists() else path)


def _sentence(error: object) -> str:
    detail: dict = error  # type: ignore[assignment]
    key = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}: remove it or mend its spelling"
    if detail["type"] == "missing":
        return f"missing key {key}"
    return f"{key}: {detail['msg']} (got {detail['input']!r})"


def without_secrets(text: str) -> str:
    """Links in it without their user and password, and without their query, where signatures are."""
    return re.sub(r"(\w://[^\s?'\"]*)\?[^\s'\"]*", r"\1", re.sub(r"//[^/@\s]+@", "//", text))
