"""The embedded scenes with classes: the family of each entity (house, owl, ...); stuff is a class without boxes."""

from __future__ import annotations

from functools import partial

import numpy as np

from sohes.data.scenes.families import AIRBORNE, INDOORS, OUTDOORS
from sohes.data.scenes.render import EVAL_OFFSET, STUFF, render_scene
from sohes.downstream.sets.examples import ClassSet, Example, example
from sohes.masks import bounding_boxes
from sohes.params import ScenesParams

CLASSES = (STUFF, *sorted({family.__name__ for family in (*OUTDOORS, *INDOORS, *AIRBORNE)}))


def open_set(params: ScenesParams, *, seed: int) -> ClassSet:
    """The training and held-out scenes that `pull` draws for the same params."""
    held_out = range(EVAL_OFFSET, EVAL_OFFSET + params.eval)
    return ClassSet(CLASSES, range(params.train), held_out, partial(_read, size=params.size, seed=seed))


def _read(index: int, *, size: int, seed: int) -> Example:
    scene = render_scene(index, size=size, seed=seed)
    roots = np.flatnonzero(scene.parents_N < 0)
    classes_HW = np.zeros(scene.image_HW3.shape[:2], np.int16)
    labels = np.array([CLASSES.index(scene.kinds_N[root]) for root in roots])
    for root, label in zip(roots, labels, strict=True):
        classes_HW[scene.masks_NHW[root]] = label
    entities = roots[labels > 0]
    y0, x0, y1, x1 = bounding_boxes(scene.masks_NHW[entities]).T
    return example(
        scene.image_HW3, classes_HW=classes_HW, boxes_T4=np.stack([x0, y0, x1, y1], axis=1), labels_T=labels[labels > 0]
    )
