"""Small, medium and large masks, as COCO tells them apart."""

from __future__ import annotations

# Areas in pixels of the photograph. Both ends are inclusive, as in pycocotools: a mask of 32 x 32 pixels is S and M.
SIZES = {"S": (0, 32**2), "M": (32**2, 96**2), "L": (96**2, 1e10)}
