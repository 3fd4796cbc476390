"""Cascade Mask R-CNN's detector (Cai and Vasconcelos, 2018) from torchvision's parts, for one class.

Boxes are (x0, y0, x1, y1) in pixels of the input square. K counts detections of one image.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, remove_small_boxes

from sohes.params import ModelParams

ENTITY = 1  # the label of the one class; 0 is background
STRIDES = (4, 8, 16, 32, 64)  # of the feature maps "0" ... "4"; RoIs are taken from the first four
RATIOS = (0.5, 1.0, 2.0)
BOX_SIDE, MASK_SIDE = 7, 14  # cells of a RoI; the predicted masks are twice as fine
COORDINATE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the first stage, k + 1 times as much in stage k: offsets get smaller
POSITIVE_SHARE = 0.25  # of the RoIs that are trained on
Features = dict[str, Tensor]


@dataclass(frozen=True)
class Truth:
    """The targets of one image: boxes_T4 float32, masks_THW bool."""

    boxes_T4: Tensor
    masks_THW: Tensor

    def as_torchvision(self) -> dict[str, Tensor]:
        labels_T = torch.full((len(self.boxes_T4),), ENTITY, dtype=torch.int64, device=self.boxes_T4.device)
        return {"boxes": self.boxes_T4, "labels": labels_T, "masks": self.masks_THW.view(torch.uint8)}


@dataclass(frozen=True)
class Detections:
    """Of one image, best score first. masks_Kmm: probabilities, a square grid over each box."""

    boxes_K4: Tensor
    scores_K: Tensor
    masks_Kmm: Tensor


class Detector(nn.Module):
    """Boxes and masks from float32 maps at STRIDES, named "0" to "4"."""

    def losses(self, images_B3HW: Tensor, features: Features, truths: list[Truth]) -> dict[str, Tensor]:
        """`objectness, anchor, class, box, mask`; each has a gradient also in a batch without targets."""
        raise NotImplementedError

    def detect(self, images_B3HW: Tensor, features: Features) -> list[Detections]:
        """At most `num_queries` and `cascade.proposals` of each image; a score is the mean over the stages."""
        raise NotImplementedError

    def rehearse(self, features: Features) -> list[Tensor]:
        """A pass that needs no values, with as many RoIs as a training image has: to count its memory."""
        raise NotImplementedError


class TorchvisionCascade(Detector):
    """Proposals, box stages of rising IoU that each start from the boxes of the one before, and one mask head."""

    def __init__(self, params: ModelParams) -> None:
        super().__init__()
        cascade, dim = params.cascade, params.hidden_dim
        self.kept, self.nms_iou, self.samples = params.num_queries, cascade.nms_iou, cascade.samples
        sides = tuple((stride * cascade.anchor_scale,) for stride in STRIDES)
        proposals = {"training": cascade.proposals, "testing": cascade.proposals}
        self.rpn = RegionProposalNetwork(
            AnchorGenerator(sides, (RATIOS,) * len(STRIDES)),
            RPNHead(dim, len(RATIOS)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=proposals,
            post_nms_top_n=proposals,
            nms_thresh=0.7,
        )
        levels = [str(i) for i in range(4)]
        stages = [
            RoIHeads(
                MultiScaleRoIAlign(levels, BOX_SIDE, sampling_ratio=2),
                TwoMLPHead(dim * BOX_SIDE**2, params.feedforward_dim),
                FastRCNNPredictor(params.feedforward_dim, num_classes=2),
                fg_iou_thresh=iou,
                bg_iou_thresh=iou,
                batch_size_per_image=cascade.samples,
                positive_fraction=POSITIVE_SHARE,
                bbox_reg_weights=tuple(weight * (k + 1) for weight in COORDINATE_WEIGHTS),
                score_thresh=0.0,
                nms_thresh=cascade.nms_iou,
                detections_per_img=params.num_queries,
            )
            for k, iou in enumerate(cascade.ious)
        ]
        self.stages: Any = nn.ModuleList(stages)  # mypy takes what a ModuleList holds for tensors
        self.mask_pool = MultiScaleRoIAlign(levels, MASK_SIDE, sampling_ratio=2)
        self.mask_head = MaskRCNNHeads(dim, (dim,) * 4, dilation=1)
        self.mask_predictor = MaskRCNNPredictor(dim, dim, num_classes=2)

    def losses(self, images_B3HW: Tensor, features: Features, truths: list[Truth]) -> dict[str, Tensor]:
        images, sizes = _image_list(images_B3HW)
        wanted = [truth.as_torchvision() for truth in truths]
        found, first = self.rpn(images, features, wanted)
        rois, matched, labels, offsets = self.stages[0].select_training_samples(found, wanted)
        positive = [each == ENTITY for each in labels]
        mask_rois = [roi[here] for roi, here in zip(rois, positive, strict=True)]
        mask_matched = [index[here] for index, here in zip(matched, positive, strict=True)]

        class_losses, box_losses = [], []
        for k, stage in enumerate(self.stages):
            if k:
                matched, labels, offsets = _label(stage, rois, wanted)
            class_logits, deltas = self._score(stage, features, rois, sizes)
            of_class, of_box = fastrcnn_loss(class_logits, deltas, labels, offsets)
            class_losses.append(of_class)
            box_losses.append(of_box)
            moved = _move(stage, deltas.detach(), rois, sizes)
            rois = [_large(boxes, instead) for boxes, instead in zip(moved, rois, strict=True)]

        logits = self._mask_logits(features, mask_rois, sizes)
        each = [(t["masks"], t["labels"]) for t in wanted]
        of_mask = maskrcnn_loss(logits, mask_rois, *map(list, zip(*each, strict=True)), mask_matched)
        return {
            "objectness": first["loss_objectness"],
            "anchor": first["loss_rpn_box_reg"],
            "class": torch.stack(class_losses).sum(),
            "box": torch.stack(box_losses).sum(),
            "mask": of_mask,
        }

    def detect(self, images_B3HW: Tensor, features: Features) -> list[Detections]:
        images, sizes = _image_list(images_B3HW)
        rois, _ = self.rpn(images, features)
        counts, scores = [len(boxes) for boxes in rois], []
        for stage in self.stages:
            class_logits, deltas = self._score(stage, features, rois, sizes)
            scores.append(class_logits.softmax(-1)[:, ENTITY])
            rois = _move(stage, deltas, rois, sizes)
        mean = torch.stack(scores).mean(0).split(counts)
        chosen = [self._best(boxes, score) for boxes, score in zip(rois, mean, strict=True)]
        rois = [boxes[best] for boxes, best in zip(rois, chosen, strict=True)]
        masks = self._mask_logits(features, rois, sizes)[:, ENTITY].sigmoid().split([len(boxes) for boxes in rois])
        return [
            Detections(boxes, score[best], mask)
            for boxes, score, best, mask in zip(rois, mean, chosen, masks, strict=True)
        ]

    def _best(self, boxes: Tensor, scores: Tensor) -> Tensor:
        large = remove_small_boxes(boxes, 1.0)
        return large[nms(boxes[large], scores[large], self.nms_iou)[: self.kept]]

    def _score(
        self, stage: RoIHeads, features: Features, rois: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas of a stage. Its share of the features' gradient is the mean of the stages'."""
        pooled = stage.box_roi_pool(features, rois, sizes)
        share = 1 / len(self.stages)
        hidden = stage.box_head(share * pooled + (1 - share) * pooled.detach())
        return stage.box_predictor(hidden)

    def _mask_logits(self, features: Features, rois: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.mask_predictor(self.mask_head(self.mask_pool(features, rois, sizes)))

    def rehearse(self, features: Features) -> list[Tensor]:
        samples, dim = self.samples, features["0"].shape[1]
        empty = features["0"].new_zeros
        outputs = [t for maps in self.rpn.head(list(features.values())) for t in maps]
        for stage in self.stages:
            outputs += stage.box_predictor(stage.box_head(empty(samples, dim, BOX_SIDE, BOX_SIDE)))
        rois = empty(int(samples * POSITIVE_SHARE), dim, MASK_SIDE, MASK_SIDE)
        return [*outputs, self.mask_predictor(self.mask_head(rois))]


def _image_list(images_B3HW: Tensor) -> tuple[ImageList, list[tuple[int, int]]]:
    sizes = [(images_B3HW.shape[2], images_B3HW.shape[3])] * len(images_B3HW)
    return ImageList(images_B3HW, sizes), sizes


def _label(
    stage: RoIHeads, rois: list[Tensor], wanted: list[dict[str, Tensor]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Matched targets, labels and box offsets of RoIs, by the stage's own IoU."""
    boxes, labels = [truth["boxes"] for truth in wanted], [truth["labels"] for truth in wanted]
    matched, found = stage.assign_targets_to_proposals(rois, boxes, labels)
    nearest = [(b if len(b) else b.new_zeros(1, 4))[index] for b, index in zip(boxes, matched, strict=True)]
    return matched, found, stage.box_coder.encode(nearest, rois)


def _move(stage: RoIHeads, deltas: Tensor, rois: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The RoIs after a stage's deltas, inside the image."""
    boxes = stage.box_coder.decode(deltas, rois)[:, ENTITY]
    parts = boxes.split([len(each) for each in rois])
    return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes, strict=True)]


def _large(boxes: Tensor, instead: Tensor) -> Tensor:
    """Without boxes below a pixel or of NaN; `instead` if none is left: a diverged cascade must come to its loss."""
    large = boxes[remove_small_boxes(boxes, 1.0)]
    return large if len(large) else instead


def as_features(maps: list[Tensor]) -> Features:
    """Maps at STRIDES under the names that torchvision gives them."""
    return OrderedDict((str(i), each) for i, each in enumerate(maps))
