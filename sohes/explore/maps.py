"""The feature maps of phase 1: the backbone's tokens, colour by hand, or both side by side (ours but for tokens).

Tokens know objects, colour knows outlines and small things. Each finds masks that the other misses.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sohes.backbone.handmade import CENTRING, handmade_features
from sohes.explore.local import Extract
from sohes.explore.merge.tree import unit_features
from sohes.params import ExploreParams

if TYPE_CHECKING:
    from sohes.backbone.vit import Tap


def backbone_taps(params: ExploreParams) -> list[Tap]:
    """What the feature maps need of the backbone, each once; empty if they need none."""
    return list(dict.fromkeys(tap for one in params.maps if (tap := _tap(one)) is not None))


def _tap(params: ExploreParams) -> Tap | None:
    if params.features == "handmade":
        return None
    return "tokens" if params.features == "fused" else params.features, params.block


def make_extractor(params: ExploreParams, backbone: Path) -> Extract:
    """What `map_extractors` shares: the backbone's features that the maps need, side by side, or colour alone."""
    taps = backbone_taps(params)
    if not taps:
        return _handmade(params)
    import torch

    from sohes.backbone.checkpoint import load_backbone
    from sohes.backbone.vit import extract_features

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return partial(extract_features, load_backbone(backbone).to(device), amp=params.amp, wanted=taps)


def map_extractors(extract: Extract, params: ExploreParams) -> list[Extract]:
    """The extractor of each of `params.maps`, from what `make_extractor` made."""
    if not params.also and params.features != "fused":
        return [extract]
    taps, shared = backbone_taps(params), _LastOnly(extract)
    return [_of_map(one, taps, shared) for one in params.maps]


def _of_map(params: ExploreParams, taps: list[Tap], shared: Extract) -> Extract:
    tap = _tap(params)
    if tap is None:
        return _handmade(params)
    place = taps.index(tap)

    def tokens(images: list[np.ndarray]) -> list[np.ndarray]:
        return [np.split(features, len(taps), -1)[place] for features in shared(images)]

    if params.features != "fused":
        return tokens
    return lambda images: [
        fused_features(one, handmade_features(image, patch_size=params.patch_size), colour_weight=params.colour_weight)
        for one, image in zip(tokens(images), images, strict=True)
    ]


def _handmade(params: ExploreParams) -> Extract:
    return lambda images: [handmade_features(image, patch_size=params.patch_size) for image in images]


def fused_features(tokens_hwC: np.ndarray, colour_hwC: np.ndarray, *, colour_weight: float) -> np.ndarray:
    """Tokens enlarged to the finer grid of `colour_hwC`, and colour, side by side; each patch has norm 1 in both.

    The cosine of two patches is then the mean of the two cosines, colour's weighted by `colour_weight` squared. Half of
    the image's mean is subtracted from the tokens first, as it is from the colours: they lie close together.
    """
    centred = tokens_hwC - np.float32(CENTRING) * tokens_hwC.mean((0, 1))
    enlarged = _enlarged(centred, colour_hwC.shape[:2])
    return np.concatenate([unit_features(enlarged), np.float32(colour_weight) * unit_features(colour_hwC)], -1)


def _enlarged(features_hwC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear; OpenCV enlarges no more than 512 channels, but the two matrices that do it."""
    rows, columns = (
        cv2.resize(np.eye(side, dtype=np.float32), (side, longer))
        for side, longer in zip(features_hwC.shape[:2], size, strict=True)
    )
    return np.tensordot(rows, np.tensordot(columns, features_hwC, (1, 1)), (1, 1))


class _LastOnly:
    """An extractor that knows its last answer: the maps of one image ask for the same views in turn."""

    def __init__(self, extract: Extract) -> None:
        self.extract = extract
        self.images: list[np.ndarray] = []
        self.features: list[np.ndarray] = []

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        if len(images) != len(self.images) or not all(map(np.array_equal, images, self.images)):
            self.images, self.features = images, self.extract(images)
        return self.features
