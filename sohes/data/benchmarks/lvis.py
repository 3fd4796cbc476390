"""LVIS v1, validation set, as class-agnostic ground truth.

Protocol (paper section 4; zero-shot, AR at 1,000 masks): the 19,809 images of `lvis_v1_val.json`, which are photographs
of COCO's train2017 and val2017, all categories as one entity. Annotation is federated: an image is complete for some
categories only, so AP says little here (paper appendix B); compare AR. There are no crowds. Masks are polygons in
stored pixels. This reader keeps every annotation; UnSAM's published code names a file called `cocofied`, so published
figures may be on COCO's categories only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sohes.data.benchmarks import coco, layout
from sohes.masks.mask_json import checked_coco
from sohes.structures import ImageRecord

NAME = "lvis"
INFO = """Get the v1 validation annotations from lvisdataset.org and COCO's 2017 images. DIR holds:
  annotations/lvis_v1_val.json           (or lvis_v1_val.json)
  train2017/*.jpg  val2017/*.jpg         (only to predict; scoring reads no image)"""
read_image = layout.photographs("images")


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth, in the file's order; file names are `val2017/....jpg`, from `coco_url`."""
    path = layout.find(root, "annotations/lvis_v1_val.json", "lvis_v1_val.json", name=NAME)
    content = coco.read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    for image in images if isinstance(images, list) else ():  # what else is wrong, `checked_coco` says
        url = image.get("coco_url") if isinstance(image, dict) else None
        if isinstance(url, str):
            image.setdefault("file_name", "/".join(url.split("/")[-2:]))
    return coco.read_content(checked_coco(content, path), path, source=NAME)
