"""The network that `model.head` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sohes.model.cascade import CascadeSegmenter
from sohes.model.cascade_heads import TorchvisionCascade
from sohes.model.network import Segmenter
from sohes.params import ModelParams

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone

Network: TypeAlias = Segmenter | CascadeSegmenter


def build_network(backbone: Backbone, params: ModelParams) -> Network:
    """A network with random heads. SohesError if its head needs a package that is not installed."""
    if params.head == "mask2former":
        return Segmenter(backbone, params)
    if params.head == "cascade":
        return CascadeSegmenter(backbone, params, TorchvisionCascade(params))
    from sohes.model.detectron2_heads import Detectron2Cascade

    return CascadeSegmenter(backbone, params, Detectron2Cascade(params))
