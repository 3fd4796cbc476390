"""Phase 1 and its peers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sohes.params.section import Amount, Fraction, Positive, Section

Method = Literal["sohes", "maskcut", "hassod", "divide", "threshold"]
Features = Literal["tokens", "keys", "values", "handmade", "fused"]
RefinerName = Literal["none", "guided", "densecrf", "cascadepsp", "crm"]


class PeersParams(Section):
    """Peers of phase 1 (`sohes.explore.peers`), with their authors' numbers; `threshold_thetas` are ours."""

    maskcut_tau: Annotated[float, Field(ge=-1, le=1)]
    """Patches with a higher cosine similarity are alike."""
    maskcut_cuts: Positive
    """At most this many objects per image; `divide` starts from them."""
    hassod_theta_merge: tuple[float, ...]
    """Similarities below which `hassod` records its regions."""
    threshold_thetas: tuple[float, ...]
    """Similarities from which `threshold` joins neighbouring patches."""


# What may differ between the feature maps of phase 1.
OF_A_MAP = {"features", "block", "image_size", "crop_size", "patch_size", "colour_weight", "normalise", "theta_merge"}
OF_A_MAP |= {"theta_small", "nms_iou", "min_crop", "recluster", "min_stability"}


class ExploreParams(Section):
    """Phase 1 (paper 3.1, appendix A)."""

    method: Method
    """How masks are found; all but `sohes` are peers, for comparison."""
    features: Features
    """The backbone's features; `handmade`: colour and texture, not learned; `fused`: tokens and colour side by side."""
    block: Annotated[int, Field(lt=0)]
    """Backbone block that features come from, counted from the end; -1: the last."""
    image_size: Positive
    """S: side of the square view of the whole photograph, in pixels."""
    crop_size: Positive
    """S': side that a crop is enlarged to, in pixels; more for large crops."""
    patch_size: Positive
    """Side of a patch of handmade and fused features, in pixels; tokens use the backbone's."""
    colour_weight: Amount
    """Weight of colour beside tokens; only read with `fused`."""
    amp: bool
    """Compute tokens in bf16 autocast: several times faster on a GPU."""
    normalise: bool
    """L2-normalise each patch before averaging."""
    theta_merge: tuple[float, ...]
    """Strictly falling: regions are recorded each time the merges' similarity falls below one of these."""
    theta_small: Fraction
    """A region smaller than this share of the image is clustered again in a crop."""
    theta_cover: Fraction
    """A mask is part of another if at least this share of it is covered, and less of the other."""
    nms_iou: Fraction
    """Masks with a higher IoU are duplicates, of which one stays."""
    min_crop: Positive
    """Least side of a crop, in pixels of the original image."""
    recluster: Literal["small", "all"]
    """Regions to cluster again in a crop; `all` is not in the paper."""
    min_stability: Fraction
    """Keep regions of at least this stability, their score; 0, as in the paper: keep all, with score 1 (ours)."""
    refiner: RefinerName
    """What moves borders to edges; cascadepsp and crm were trained on human masks."""
    refine_min_iou: Fraction
    """A mask whose IoU with its refined self is lower is dropped."""
    also: tuple[Annotated[dict[str, Any], Field(json_schema_extra={"propertyNames": {"enum": sorted(OF_A_MAP)}})], ...]
    """Further feature maps, whose masks are pooled: each says what differs from above."""
    images_per_shard: Positive
    """Photographs labelled as one piece of work, which a stop does not undo."""
    max_rejected_fraction: Fraction
    """If a larger share of the photographs is rejected, the stage fails."""
    peers: PeersParams

    @property
    def maps(self) -> tuple[ExploreParams, ...]:
        """The params of each feature map: these, and those of `also`."""
        shared = self.model_dump(exclude={"also"})
        return (self, *(ExploreParams.model_validate({**shared, **further, "also": ()}) for further in self.also))

    @property
    def looks_closer(self) -> bool:
        """Whether regions are clustered again in crops."""
        return self.method == "sohes" and (self.recluster == "all" or self.theta_small > 0)

    def check_patches(self, patch_size: int, key: str) -> None:
        """ValueError if a view is not made of whole patches. key: what sets their size."""
        sides = {"image_size": self.image_size} | ({"crop_size": self.crop_size} if self.looks_closer else {})
        for name, side in sides.items():
            if side % patch_size:
                raise ValueError(f"{key} {patch_size} must divide {name} {side} with features {self.features}")

    @property
    def uses_backbone(self) -> bool:
        return any(one.features != "handmade" for one in self.maps)

    @model_validator(mode="after")
    def _further_maps(self) -> ExploreParams:
        for further in self.also:
            if other := sorted(set(further) - OF_A_MAP):
                raise ValueError(f"{other[0]} is the same for all feature maps: take it out of `also`")
        if self.also and self.method != "sohes":
            raise ValueError(f"method {self.method} clusters one feature map: leave `also` empty")
        _ = self.maps  # their numbers are checked as these are
        return self

    @model_validator(mode="after")
    def _views_are_made_of_whole_patches(self) -> ExploreParams:
        if self.features in ("handmade", "fused"):
            self.check_patches(self.patch_size, "patch_size")
        return self

    @model_validator(mode="after")
    def _thresholds_fall(self) -> ExploreParams:
        if not self.theta_merge or list(self.theta_merge) != sorted(set(self.theta_merge), reverse=True):
            raise ValueError(f"theta_merge must fall strictly (got {list(self.theta_merge)})")
        return self
