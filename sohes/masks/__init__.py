"""Masks as boolean pictures, as bits, as run lengths and as JSON, and the forest over them."""

from sohes.masks.dense import bounding_boxes, intersections, iou_from_intersections, nms_from_iou, pixel_counts
from sohes.masks.rle import (
    areas,
    boxes_xywh,
    coco_rles,
    decode,
    empty_mask_set,
    encode,
    mask_set,
    nearest,
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
    "pixel_counts",
    "sample",
]
