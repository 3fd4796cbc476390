"""ViTs of two blocks, one of each of the DINO family's kinds."""

from pathlib import Path

import torch

from sohes.backbone.build import build_backbone
from sohes.backbone.vit import Backbone
from sohes.params import BackboneParams, load_params

DEMO = load_params(Path(__file__).parents[1] / "params.yaml").backbone
SMALL = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
FAMILIES = {  # how the DINO family differs: registers, layer scale, rotary positions
    "dino": ("vit_tiny_patch16_224", {**SMALL, "img_size": 16}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 16}),
    "dinov3": ("vit_small_patch16_dinov3", {**SMALL, "img_size": 16}),
    "eva02": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 16}),
}


def small_params(**changes) -> BackboneParams:
    return DEMO.model_copy(update={**SMALL, "image_size": 16, **changes})


def small_backbone(**changes) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(small_params(**changes)).eval()
