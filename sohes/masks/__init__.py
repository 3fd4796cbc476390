"""Masks as arrays and as run lengths."""

from sohes.masks.dense import (
    areas,
    bounding_boxes,
    boxes_xywh,
    coco_rles,
    decode,
    empty_mask_set,
    encode,
    intersections,
    iou_from_intersections,
    mask_set,
    nearest,
    nms_from_iou,
    nonzero_boxes,
    popcount,
    sample,
)

__all__ = [
    "areas",
    "bounding_boxes",
    "boxes_xywh",
    "coco_rles",
    "decode",
    "empty_mask_set",
    "encode",
    "intersections",
    "iou_from_intersections",
    "mask_set",
    "nearest",
    "nms_from_iou",
    "nonzero_boxes",
    "popcount",
    "sample",
]
