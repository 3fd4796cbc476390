"""EntitySeg (Qi et al., 2023), validation set at low resolution, as class-agnostic ground truth.

Protocol (paper section 4 and table 4): `entityseg_val_lr.json`, whose masks fit the reduced images. Every annotated
segment, thing or stuff, is one entity, and together they cover nearly the whole image. Predictions must be in the frame
of the low-resolution images; those of the large ones have another size and are refused.
"""

from __future__ import annotations

from sohes.data.benchmarks import coco, layout

NAME = "entityseg"
INFO = """Get the annotations from release v1.0 of adobe-research/EntitySeg-Dataset on GitHub, and the low-resolution
images from the source that its README names. DIR holds:
  entityseg_val_lr.json                  (or annotations/entityseg_val_lr.json)
  images_lr/...                          (or images/..., or the folders themselves; only to predict)"""
read_image = layout.photographs("images_lr", "images")
read_benchmark = coco.reader(NAME, "entityseg_val_lr.json", "annotations/entityseg_val_lr.json")
