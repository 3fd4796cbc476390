"""The other head of the paper's table 8: Cascade Mask R-CNN on the ViT-Adapter's maps.

It has no queries and no ancestor head. Its detections have the form of the Mask2Former head's output, so phase 3,
decoding and evaluation treat both heads alike; the forest is by coverage (paper 3.1, step 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork, masks_to_boxes
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from sohes.backbone.precision import full_precision
from sohes.model.adapter import ViTAdapter
from sohes.model.cascade_heads import Detections, Detector, Features, Truth, as_features
from sohes.model.decode import STRIDE
from sohes.model.network import AdaptedNetwork, check_sides
from sohes.params import ModelParams
from sohes.structures import ModelOutput, Targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sohes.backbone.vit import Backbone

SURE = 1e-4  # probabilities stay this far from 0 and 1, where logits are infinite
_PASTED_AT_ONCE = 32  # masks; their sampling grids are twice as large as the mask maps


class CascadeSegmenter(AdaptedNetwork):
    """ViT, ViT-Adapter, feature pyramid, detector. Of `params` it reads `hidden_dim` (channels of the pyramid),
    `feedforward_dim` (of a box head), `num_queries` (detections of an image) and `cascade`.
    """

    detector: Detector

    def __init__(self, backbone: Backbone, params: ModelParams, detector: Detector) -> None:
        super().__init__()
        self.params = params
        self.adapter = ViTAdapter(backbone, params.adapter, recompute_blocks=params.recompute_blocks)
        self.pyramid = FeaturePyramidNetwork(
            [backbone.embed_dim] * 4, params.hidden_dim, extra_blocks=LastLevelMaxPool(), norm_layer=None
        )
        self.detector = detector
        self.to(memory_format=torch.channels_last)

    def features(self, images_B3HW: Tensor) -> Features:
        """float32 maps at strides 4 to 64. SohesError if a side is not a multiple of 32."""
        check_sides(images_B3HW)
        images_B3HW = images_B3HW.contiguous(memory_format=torch.channels_last)
        maps = self.pyramid(as_features(list(self.adapter(images_B3HW))))
        return as_features([each.float() for each in maps.values()])

    def losses(self, images_B3HW: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """`loss` with its graph, and its detached summands, as `losses.criterion` gives them for the other head."""
        features = self.features(images_B3HW)
        with full_precision(images_B3HW.device):  # boxes need more digits than bfloat16 has
            parts = self.detector.losses(images_B3HW.float(), features, [truth_of(t) for t in targets])
        loss = torch.stack(list(parts.values())).sum()
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def forward(self, images_B3HW: Tensor) -> ModelOutput:
        """The detections as masks at a quarter of the size, padded to `num_queries` with scores of zero."""
        features = self.features(images_B3HW)
        with full_precision(images_B3HW.device):
            found = self.detector.detect(images_B3HW.float(), features)
        h, w = (side // STRIDE for side in images_B3HW.shape[-2:])
        count = self.params.num_queries
        logits = [_padded(torch.logit(each.scores_K, SURE), count, -torch.inf) for each in found]
        classes_BQ = torch.stack(logits)
        return ModelOutput(
            torch.stack([classes_BQ, torch.zeros_like(classes_BQ)], -1),
            torch.stack([_padded(paste(each, h, w), count, torch.logit(torch.tensor(SURE)).item()) for each in found]),
            None,
        )


def truth_of(targets: Targets) -> Truth:
    masks_THW = targets.masks_THW
    if not len(masks_THW):
        return Truth(torch.zeros(0, 4, device=masks_THW.device), masks_THW)
    boxes_T4 = masks_to_boxes(masks_THW)  # the last pixel itself, not its end
    return Truth(boxes_T4 + boxes_T4.new_tensor([0, 0, 1, 1]), masks_THW)


def paste(found: Detections, h: int, w: int) -> Tensor:
    """(K, h, w) logits on the mask map: each box's grid, bilinearly; outside the box the probability is near zero."""
    y, x = ((torch.arange(n, device=found.boxes_K4.device) + 0.5) * STRIDE for n in (h, w))
    pasted = [
        _paste_some(*some, x, y)
        for some in zip(found.boxes_K4.split(_PASTED_AT_ONCE), found.masks_Kmm.split(_PASTED_AT_ONCE), strict=True)
    ]
    return torch.cat(pasted) if len(found.boxes_K4) else found.masks_Kmm.new_zeros(0, h, w)


def _paste_some(boxes_K4: Tensor, masks_Kmm: Tensor, x: Tensor, y: Tensor) -> Tensor:
    x0, y0, x1, y1 = boxes_K4[:, :, None].unbind(1)
    place_Kw, place_Kh = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
    h, w = len(y), len(x)
    grid = torch.stack([place_Kw[:, None].expand(-1, h, -1), place_Kh[:, :, None].expand(-1, -1, w)], -1)
    # the box extends half a cell beyond the centres of the grid's outer cells, whose values hold there
    probability = F.grid_sample(masks_Kmm[:, None], 2 * grid - 1, padding_mode="border", align_corners=False)[:, 0]
    inside = ((grid >= 0) & (grid <= 1)).all(-1)
    return torch.logit(probability * inside, SURE)


def _padded(values: Tensor, count: int, filling: float) -> Tensor:
    """The first dimension grown to `count`."""
    missing = values.new_full((count - len(values), *values.shape[1:]), filling)
    return torch.cat([values, missing])
