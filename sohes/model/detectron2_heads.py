"""detectron2's own Cascade Mask R-CNN as a detector on our maps: `model.head: detectron2-cascade`.

Only this file and `sohes.model.detectron2_data` import detectron2, and only when they are used.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sohes.errors import SohesError
from sohes.model.cascade_heads import (
    BOX_SIDE,
    COORDINATE_WEIGHTS,
    MASK_SIDE,
    POSITIVE_SHARE,
    RATIOS,
    STRIDES,
    Detections,
    Detector,
    Features,
    Truth,
)
from sohes.params import ModelParams

_PARTS = {"objectness": "loss_rpn_cls", "anchor": "loss_rpn_loc", "class": "loss_cls", "box": "loss_box_reg"}


def require_detectron2() -> ModuleType:
    """The package. SohesError that says how to get it."""
    try:
        import detectron2
    except ImportError as error:
        raise SohesError(
            f"model.head: detectron2-cascade and sohes.model.detectron2_data need detectron2 ({error}), which is on "
            "no package index: install it from its source, the GitHub repository facebookresearch/detectron2, as its "
            "INSTALL.md says, or take model.head: cascade, the same network from torchvision's parts"
        ) from None
    return detectron2


class Detectron2Cascade(Detector):
    """The settings of `TorchvisionCascade`, in detectron2's words; boxes are class-agnostic as its cascade demands."""

    def __init__(self, params: ModelParams, *, pooler: str = "ROIAlignV2") -> None:
        super().__init__()
        require_detectron2()
        from detectron2.layers import ShapeSpec
        from detectron2.modeling import build_proposal_generator, build_roi_heads

        config = settings(params, pooler=pooler)
        shapes = {
            name: ShapeSpec(channels=params.hidden_dim, stride=stride)
            for name, stride in zip(config.MODEL.RPN.IN_FEATURES, STRIDES, strict=True)
        }
        self.rpn = build_proposal_generator(config, shapes)
        self.heads = build_roi_heads(config, shapes)

    def losses(self, images_B3HW: Tensor, features: Features, truths: list[Truth]) -> dict[str, Tensor]:
        from detectron2.utils.events import EventStorage

        images = _image_list(images_B3HW)
        wanted = [instances_of(truth) for truth in truths]
        with EventStorage():  # its heads insist on one, which nobody reads
            proposals, first = self.rpn(images, features, wanted)
            _, second = self.heads(images, features, proposals, wanted)
        found = {**first, **second}
        parts = {
            name: torch.stack([value for key, value in found.items() if theirs in key]).sum()
            for name, theirs in _PARTS.items()
        }
        return {**parts, "mask": found["loss_mask"]}

    def detect(self, images_B3HW: Tensor, features: Features) -> list[Detections]:
        images = _image_list(images_B3HW)
        proposals, _ = self.rpn(images, features, None)
        results, _ = self.heads(images, features, proposals, None)
        return [Detections(r.pred_boxes.tensor, r.scores, r.pred_masks[:, 0]) for r in results]


def settings(params: ModelParams, *, pooler: str) -> Any:
    """detectron2's configuration of the heads. pooler: its word for how RoIs are sampled."""
    from detectron2.config import get_cfg

    cascade, config = params.cascade, get_cfg()
    model = config.MODEL
    model.DEVICE, model.MASK_ON = "cpu", True  # the network is moved as a whole
    model.ANCHOR_GENERATOR.SIZES = [[stride * cascade.anchor_scale] for stride in STRIDES]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(RATIOS)]
    model.RPN.IN_FEATURES = [str(i) for i in range(len(STRIDES))]
    for name in ("PRE_NMS_TOPK_TRAIN", "PRE_NMS_TOPK_TEST", "POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST"):
        setattr(model.RPN, name, cascade.proposals)
    heads = model.ROI_HEADS
    heads.NAME, heads.NUM_CLASSES, heads.IN_FEATURES = "CascadeROIHeads", 1, model.RPN.IN_FEATURES[:4]
    heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION = cascade.samples, POSITIVE_SHARE
    heads.IOU_THRESHOLDS = [cascade.ious[0]]
    heads.NMS_THRESH_TEST, heads.SCORE_THRESH_TEST = cascade.nms_iou, 0.0
    config.TEST.DETECTIONS_PER_IMAGE = params.num_queries
    model.ROI_BOX_CASCADE_HEAD.IOUS = list(cascade.ious)
    model.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = [
        [weight * (k + 1) for weight in COORDINATE_WEIGHTS] for k in range(len(cascade.ious))
    ]
    box, mask = model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    box.NAME, box.NUM_FC, box.FC_DIM, box.CLS_AGNOSTIC_BBOX_REG = "FastRCNNConvFCHead", 2, params.feedforward_dim, True
    box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO = BOX_SIDE, 2
    box.SMOOTH_L1_BETA = 1 / 9
    box.POOLER_TYPE = mask.POOLER_TYPE = pooler
    mask.NAME, mask.NUM_CONV, mask.CONV_DIM = "MaskRCNNConvUpsampleHead", 4, params.hidden_dim
    mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO = MASK_SIDE, 2
    config.INPUT.MASK_FORMAT = "bitmask"
    return config


def instances_of(truth: Truth) -> Any:
    """detectron2's Instances of one image; class 0 is the entity there."""
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = truth.masks_THW.shape[1:]
    classes = torch.zeros(len(truth.boxes_T4), dtype=torch.int64, device=truth.boxes_T4.device)
    return Instances(
        (height, width), gt_boxes=Boxes(truth.boxes_T4), gt_classes=classes, gt_masks=BitMasks(truth.masks_THW)
    )


def _image_list(images_B3HW: Tensor) -> Any:
    from detectron2.structures import ImageList

    return ImageList(images_B3HW, [(images_B3HW.shape[2], images_B3HW.shape[3])] * len(images_B3HW))
