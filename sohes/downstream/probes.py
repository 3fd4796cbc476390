"""The networks of figure 6 (paper 4.4): a frozen ViT, a fresh ViT-Adapter on it, and a plain head for the task."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sohes.backbone.precision import full_precision
from sohes.model.adapter import ViTAdapter
from sohes.params import AdapterParams

if TYPE_CHECKING:
    from sohes.backbone.vit import Backbone

ANCHORS = 9  # of a cell: torchvision's three sizes in three shapes
LEVELS = 4  # maps of the adapter, strides 4 to 32
CLASSES_AT_ONCE = 16  # 150 maps at a photograph's size would be gigabytes


@dataclass(frozen=True)
class FoundBoxes:
    """Detections of one image, best score first. boxes_K4: (x0, y0, x1, y1) in pixels of the square."""

    boxes_K4: Tensor
    scores_K: Tensor
    labels_K: Tensor


class Probe(nn.Module):
    """A frozen ViT and an adapter that learns."""

    def __init__(self, backbone: Backbone, params: AdapterParams) -> None:
        super().__init__()
        self.adapter = ViTAdapter(backbone.freeze(), params)

    @property
    def backbone(self) -> Backbone:
        return self.adapter.backbone


class SemanticProbe(Probe):
    """A linear classifier on the adapter's four maps, concatenated at stride 4."""

    def __init__(self, backbone: Backbone, params: AdapterParams, *, classes: int) -> None:
        super().__init__(backbone, params)
        self.classify = nn.Conv2d(LEVELS * backbone.embed_dim, classes, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, classes, h, w) logits at stride 4."""
        finest, *coarser = self.adapter(images_B3HW)
        grown = [F.interpolate(m, size=finest.shape[-2:], mode="bilinear", align_corners=False) for m in coarser]
        return self.classify(torch.cat([finest, *grown], 1))

    def losses(self, images_B3HW: Tensor, classes_BHW: Tensor, *, void: int) -> dict[str, Tensor]:
        """Mean cross entropy of the pixels that are not `void`; 0 if all are."""
        logits = F.interpolate(
            self(images_B3HW), size=classes_BHW.shape[-2:], mode="bilinear", align_corners=False
        ).float()
        total = F.cross_entropy(logits, classes_BHW, ignore_index=void, reduction="sum")
        return {"loss": total / (classes_BHW != void).sum().clamp(min=1)}


class DetectionProbe(Probe):
    """torchvision's RetinaNet on the adapter's maps of strides 8, 16 and 32, and two coarser ones."""

    def __init__(self, backbone: Backbone, params: AdapterParams, *, classes: int, dim: int, image_size: int) -> None:
        super().__init__(backbone, params)
        # The map of stride 4 is not used: its layers would wait for gradients that never come.
        for unused in (self.adapter.up, self.adapter.norms[0], self.adapter.prior.project[0]):
            unused.requires_grad_(False)
        # Images come normalised and square: torchvision's own preprocessing is turned off, its padding to 32, too.
        plain = {"min_size": image_size, "max_size": image_size, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        plain["size_divisible"] = 1
        pyramid, head = _Pyramid(self.adapter, dim), _Head(dim, ANCHORS, classes)
        self.detector = RetinaNet(pyramid, num_classes=classes, head=head, **plain)

    def losses(self, images_B3HW: Tensor, boxes: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """`class` (focal), `box` (L1) and their sum `loss`."""
        truths = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
        found = self.detector(list(images_B3HW), truths)
        parts = {"class": found["classification"], "box": found["bbox_regression"]}
        return {"loss": parts["class"] + parts["box"], **{name: value.detach() for name, value in parts.items()}}

    def detect(self, images_B3HW: Tensor) -> list[FoundBoxes]:
        return [FoundBoxes(f["boxes"], f["scores"], f["labels"]) for f in self.detector(list(images_B3HW))]


class _Head(RetinaNetHead):
    """In float32, also under autocast: boxes need more digits than bfloat16 has."""

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        with full_precision(maps[0].device):
            return super().forward([each.float() for each in maps])


class _Pyramid(nn.Module):
    """RetinaNet's `backbone`: maps of `dim` channels at strides 8 to 128."""

    def __init__(self, adapter: ViTAdapter, dim: int) -> None:
        super().__init__()
        self.adapter, self.out_channels = adapter, dim
        self.reduce = nn.ModuleList(nn.Conv2d(adapter.backbone.embed_dim, dim, 1) for _ in range(LEVELS - 1))
        self.coarser = LastLevelP6P7(dim, dim)

    def forward(self, images_B3HW: Tensor) -> OrderedDict[str, Tensor]:
        _, *maps = self.adapter(images_B3HW)
        reduced = [reduce(m) for reduce, m in zip(self.reduce, maps, strict=True)]
        levels, names = self.coarser(reduced, reduced[-1:], ["3", "4", "5"])
        return OrderedDict(zip(names, levels, strict=True))


def classes_at(logits_Khw: Tensor, *, content_hw: tuple[int, int], image_hw: tuple[int, int], size: int) -> np.ndarray:
    """(H, W) int64: the likeliest class of each pixel of the photograph, from logits on a square of `size` pixels."""
    best, where = None, None
    for first in range(0, len(logits_Khw), CLASSES_AT_ONCE):
        some = logits_Khw[None, first : first + CLASSES_AT_ONCE].float()
        square = F.interpolate(some, size=(size, size), mode="bilinear", align_corners=False)
        content = square[..., : content_hw[0], : content_hw[1]]
        value, index = F.interpolate(content, size=image_hw, mode="bilinear", align_corners=False)[0].max(0)
        if best is None or where is None:
            best, where = value, index
        else:
            where = torch.where(value > best, index + first, where)
            best = torch.maximum(best, value)
    assert where is not None
    return where.cpu().numpy()
