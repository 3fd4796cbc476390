"""Phase 1 and its peers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sohes.params.section import Amount, Fraction, Positive, Section


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
    colour_weight: Amount  # of colour beside tokens; only read with `fused`
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
    def _thresholds_fall(self) -> ExploreParams:
        if not self.theta_merge or list(self.theta_merge) != sorted(set(self.theta_merge), reverse=True):
            raise ValueError(f"theta_merge must fall strictly (got {list(self.theta_merge)})")
        return self
