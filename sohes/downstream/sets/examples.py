"""One photograph with classes, and a data set of them in two splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sohes.data.imaging import letterbox

VOID = -1  # a pixel without a class: neither learned nor scored
Key = Any  # whatever a set's `read` finds an example by; it travels to worker processes


@dataclass(frozen=True)
class Example:
    """image_HW3: uint8 RGB. classes_HW: int16, VOID or a class. boxes_T4: float32 (x0, y0, x1, y1). labels_T: int64."""

    image_HW3: np.ndarray
    classes_HW: np.ndarray
    boxes_T4: np.ndarray
    labels_T: np.ndarray


@dataclass(frozen=True)
class ClassSet:
    """A data set of `len(classes)` classes. What a task does not need may be empty: no boxes, or VOID everywhere."""

    classes: tuple[str, ...]
    train: Sequence[Key]
    val: Sequence[Key]
    read: Callable[[Key], Example]


def example(
    image_HW3: np.ndarray, *, classes_HW: np.ndarray | None = None, boxes_T4: object = (), labels_T: object = ()
) -> Example:
    """An example; without classes all of it is VOID."""
    classes = np.full(image_HW3.shape[:2], VOID, np.int16) if classes_HW is None else classes_HW.astype(np.int16)
    boxes = np.asarray(boxes_T4, np.float32).reshape(-1, 4)
    return Example(image_HW3, classes, boxes, np.asarray(labels_T, np.int64))


def in_square(shown: Example, image_size: int) -> tuple[Example, tuple[int, int]]:
    """The example letterboxed into a square, and the (h, w) of its content. The padding is VOID."""
    square, (h, w) = letterbox(shown.image_HW3, image_size)
    classes = np.full(square.shape[:2], VOID, np.int16)
    classes[:h, :w] = cv2.resize(shown.classes_HW, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    height, width = shown.image_HW3.shape[:2]
    scale = np.array([w / width, h / height] * 2, np.float32)
    return Example(square, classes, shown.boxes_T4 * scale, shown.labels_T), (h, w)


def flipped(shown: Example) -> Example:
    """The example's mirror image."""
    boxes_T4 = shown.boxes_T4.copy()
    boxes_T4[:, [0, 2]] = shown.image_HW3.shape[1] - shown.boxes_T4[:, [2, 0]]
    return Example(shown.image_HW3[:, ::-1], shown.classes_HW[:, ::-1], boxes_T4, shown.labels_T)
