"""PartImageNet, the segmentation split, validation set: object parts as class-agnostic ground truth.

Protocol (paper section 4.3 and table 5, "object parts (e.g., heads and tails of animals)"): the part masks of
`PartImageNet_Seg`'s validation set (not of the OOD split that the first release had), each one entity. Whole objects
are not asked for, so there is one level only.
"""

from __future__ import annotations

from sohes.data.benchmarks import coco, layout

NAME = "partimagenet"
INFO = """Get PartImageNet_Seg.zip by way of TACJu/PartImageNet on GitHub. DIR is its folder PartImageNet:
  annotations/val/val.json               (COCO JSON of the parts)
  images/val/*.JPEG                      (only to predict; scoring reads no image)"""
read_image = layout.photographs("images/val", "PartImageNet/images/val")
read_benchmark = coco.reader(NAME, "annotations/val/val.json", "PartImageNet/annotations/val/val.json")
