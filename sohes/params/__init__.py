"""`params.yaml` as frozen, validated models: the numbers of the method, one section per stage.

All numbers of the paper are here; some of ours are constants at the top of the modules that need them.

An unknown key, a missing key or a value out of range is an error that names the key. Functions that combine steps take
their section; pure functions take keyword-only numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError, model_validator

from sohes.errors import SohesError
from sohes.params.backbone import (
    TRAINED_HERE,
    WEIGHT_FILES,
    BackboneParams,
    DinoParams,
    DistillParams,
    VitParams,
    weights_in,
)
from sohes.params.evaluate import EvaluateParams, ReportParams
from sohes.params.explore import ExploreParams
from sohes.params.keys import set_keys
from sohes.params.model import AdapterParams, CascadeParams, LossParams, ModelParams, check_side
from sohes.params.pull import PullParams, ScenesParams
from sohes.params.section import Count, Positive, Section
from sohes.params.training import (
    AugmentParams,
    CorrectParams,
    DownstreamParams,
    InstructParams,
    OptimParams,
    ProbeOptimParams,
    RateParams,
    TilesParams,
)
from sohes.project import TEMPLATE, read_mapping

__all__ = [
    "TRAINED_HERE",
    "WEIGHT_FILES",
    "AdapterParams",
    "AugmentParams",
    "BackboneParams",
    "CascadeParams",
    "CorrectParams",
    "Count",
    "DinoParams",
    "DistillParams",
    "DownstreamParams",
    "EvaluateParams",
    "ExploreParams",
    "InstructParams",
    "LossParams",
    "ModelParams",
    "OptimParams",
    "Params",
    "Positive",
    "ProbeOptimParams",
    "RateParams",
    "ScenesParams",
    "Section",
    "TilesParams",
    "VitParams",
    "load_params",
    "load_params_anywhere",
    "profiles",
    "validated",
    "weights_in",
]

S = TypeVar("S", bound=Section)


class Params(Section):
    """The numbers of the method."""

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    """Where every random choice starts."""
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

    @model_validator(mode="after")
    def _views_are_made_of_whole_tokens(self) -> Params:
        for one in self.explore.maps:
            if one.features != "handmade":
                one.check_patches(self.backbone.patch_size, "explore: backbone.patch_size")
        return self

    @model_validator(mode="after")
    def _cascades_are_not_compiled(self) -> Params:
        for name, phase in (("instruct", self.instruct), ("correct", self.correct)):
            if phase.compile and self.model.head != "mask2former":
                raise ValueError(
                    f"{name}.compile is for model.head mask2former (got {self.model.head}): set it to false"
                )
        return self

    @model_validator(mode="after")
    def _only_queries_are_held(self) -> Params:
        if self.correct.hold_free and self.model.head != "mask2former":
            head = self.model.head
            raise ValueError(f"correct.hold_free is for model.head mask2former (got {head}): set it to false")
        return self

    @model_validator(mode="after")
    def _network_fits_the_backbone(self) -> Params:
        vit = self.backbone
        if not self.instruct.backbone_of_start:  # that ViT is only known when its card is read
            self.model.check_fits(embed_dim=vit.embed_dim, depth=vit.depth, patch_size=vit.patch_size)
            check_side("downstream.image_size", self.downstream.image_size, vit.patch_size)
        return self


def load_params(path: Path, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and validate a params file. SohesError names the file, the key and the problem.

    changes: by dotted key, what counts in place of the file's own values (`--set`).
    """
    try:
        values = read_mapping(path)
    except FileNotFoundError:
        raise SohesError(f"no params file at {path}: run in the project's folder, or name one with --params") from None
    params = validated(Params, values, str(path))  # a file that is wrong by itself is not the fault of what is set
    if not changes:
        return params
    set_keys(values, changes, who="the command line", file=path)
    return validated(Params, values, f"{path} with --set {', '.join(changes)}")


def load_params_anywhere(path: Path, changes: Mapping[str, Any] | None = None) -> Params:
    """`load_params` for commands that need no project: falls back to the file of that name that comes with the code."""
    with_the_code = TEMPLATE.root / path
    return load_params(with_the_code if with_the_code.exists() and not path.exists() else path, changes)


def profiles() -> dict[str, Path]:
    """The files of params that come with the code, by name."""
    return {"demo": TEMPLATE.params, **{file.stem: file for file in sorted(TEMPLATE.profiles.glob("*.yaml"))}}


def validated(kind: type[S], values: Mapping[str, Any], where: str) -> S:
    """A section with these values. SohesError that begins with `where` and names each key that does not fit."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SohesError(f"{where}: {'; '.join(_sentence(e) for e in error.errors())}") from None


def _sentence(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}: remove it or fix its spelling"
    if detail["type"] == "missing":
        return f"missing key {key}"
    if detail["type"] == "value_error":  # of a check of ours, which names the numbers that do not fit
        return f"{key}: {detail['ctx']['error']}" if detail["loc"] else str(detail["ctx"]["error"])
    return f"{key}: {detail['msg']} (got {detail['input']!r})"
