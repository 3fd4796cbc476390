"""The network that `model.head` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from sohes.errors import SohesError
from sohes.model.cascade import CascadeSegmenter
from sohes.model.cascade_heads import TorchvisionCascade
from sohes.model.network import Segmenter
from sohes.params import ModelParams

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone

Network: TypeAlias = Segmenter | CascadeSegmenter


def build_network(backbone: Backbone, params: ModelParams) -> Network:
    """A network with random heads.

    SohesError if it does not fit the ViT, or if its head needs a package that is not installed.
    """
    try:
        params.check_fits(embed_dim=backbone.embed_dim, depth=backbone.depth, patch_size=backbone.patch_size)
    except ValueError as error:
        raise SohesError(f"{error}, as the ViT here has") from None
    if params.head == "mask2former":
        return Segmenter(backbone, params)
    if params.head == "cascade":
        return CascadeSegmenter(backbone, params, TorchvisionCascade(params))
    from sohes.model.detectron2_heads import Detectron2Cascade

    return CascadeSegmenter(backbone, params, Detectron2Cascade(params))
