"""Whether labels, and the models trained on them, owe nothing to human labels: yes, no, or None where it is unknown."""

from __future__ import annotations

from pathlib import Path

from sohes.backbone import label_free as backbones
from sohes.explore import refine
from sohes.params import ExploreParams


def of_labels(params: ExploreParams, backbone: str | Path) -> bool | None:
    """Phase 1's labels. backbone: as `backbone.pretrained` names it, or its file; handmade features need none."""
    refiner = refine.is_label_free(params.refiner)
    return both(refiner, backbones.is_label_free(backbone)) if params.uses_backbone else refiner


def of_model(labels: bool | None, backbone: str | Path, start: Path | None = None) -> bool | None:
    """A model of phase 2 or 3, which learns from the labels, and starts from the backbone or the model `start`."""
    claim = both(labels, backbones.is_label_free(backbone))
    return claim if start is None else both(claim, backbones.is_label_free(start))


def both(one: bool | None, other: bool | None) -> bool | None:
    """No if either is no, else unknown if either is unknown."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def in_words(label_free: bool | None) -> str:
    return {True: "yes", False: "no", None: "unknown"}[label_free]
