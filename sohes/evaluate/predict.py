"""Run a trained segmenter on photographs, batch by batch: windows, letterbox, network, decode, pool, refine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from sohes.data.imaging import fitted_size, letterbox
from sohes.evaluate.pool import pool
from sohes.evaluate.refine import refine_masks
from sohes.masks.windows import Window, windows
from sohes.model.decode import STRIDE as MASK_STRIDE
from sohes.model.decode import decode
from sohes.params import EvaluateParams, ModelParams
from sohes.structures import Logits, MaskSet

Given = TypeVar("Given")
Made = TypeVar("Made")
Batch: TypeAlias = Sequence[tuple[np.ndarray, Window]]  # windows and their images
OUTLINE_CELLS = 2  # cells of the mask map by which an outline may be off; measured: docs/log.md


class Network(Protocol):
    """What predicts: a network of torch (`sohes.model.network`), or one that onnxruntime runs (`sohes.model.onnx`)."""

    @property
    def params(self) -> ModelParams: ...

    @property
    def on_gpu(self) -> bool: ...

    def predict(self, squares: Sequence[np.ndarray]) -> list[Logits]:
        """The logits of each uint8 (image_size, image_size, 3) RGB image."""


def segment_images(
    model: Network, images: Iterable[np.ndarray], params: EvaluateParams, *, source: str
) -> Iterator[MaskSet]:
    """The masks, scores and forest of each (H, W, 3) uint8 image, in order (paper 3.2, inference).

    Images may differ in size; the network gets `params.batch_size` of their windows at a time (`params.tiles`).
    `source` is recorded with every mask, usually the phase.
    """
    found: list[MaskSet] = []
    for image, one in _found(model, images, params, source):
        found.append(one)
        if len(found) == len(_windows(image, params)):
            yield _settle(model, image, found, params)
            found = []


def _windows(image: np.ndarray, params: EvaluateParams) -> list[Window]:
    return windows(image.shape[:2], levels=params.tiles.levels, overlap=params.tiles.overlap)


def _found(
    model: Network, images: Iterable[np.ndarray], params: EvaluateParams, source: str
) -> Iterator[tuple[np.ndarray, MaskSet]]:
    """The masks in each window, in the frame of its image."""
    shown = ((image, window) for image in images for window in _windows(image, params))
    batches = iter(lambda: list(itertools.islice(shown, params.batch_size)), [])
    for batch, logits, contents in _one_ahead(partial(_look, model), batches):
        for (image, window), one, content in zip(batch, logits, contents, strict=True):
            found = decode(
                one,
                content_hw=content,
                image_hw=image.shape[:2],
                window=window.box,
                max_masks=params.max_masks,
                mask_threshold=params.mask_threshold,
                nms_iou=params.nms_iou,
                votes=params.votes,
                ancestor_threshold=params.ancestor_threshold,
                coverage=params.coverage,
                theta_cover=params.theta_cover if one.ancestor_QQ is not None else model.params.cascade.theta_cover,
                source=source,
            )
            yield image, found


def _look(model: Network, batch: Batch) -> tuple[Batch, list[Logits], list[tuple[int, int]]]:
    """The batch, and for each of its windows the logits and the size of what the network saw of it."""
    crops = (image[y0:y1, x0:x1] for image, window in batch for y0, x0, y1, x1 in [window.box])
    squares, contents = zip(*(letterbox(crop, model.params.image_size) for crop in crops), strict=True)
    return batch, model.predict(squares), list(contents)


def _one_ahead(compute: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """`compute` of each item, the next one in a thread while the caller works on what it got.

    An item that cannot be had is an error after the results before it.
    """
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Made] | None = None
        for item, error in _or_error(items):
            ready, coming = coming, thread.submit(compute, item) if item is not None else None
            if ready is not None:
                yield ready.result()
            if error is not None:
                raise error
        if coming is not None:
            yield coming.result()


def _or_error(items: Iterable[Given]) -> Iterator[tuple[Given | None, Exception | None]]:
    try:
        yield from ((item, None) for item in items)
    except Exception as error:
        yield None, error


def _settle(model: Network, image: np.ndarray, found: Sequence[MaskSet], params: EvaluateParams) -> MaskSet:
    """The masks of all windows of an image as one set, refined."""
    seen = _windows(image, params)
    height, width = image.shape[:2]
    pooled, of_window = pool(
        found,
        [params.tiles.score_factor**window.level for window in seen],
        size=fitted_size(height, width, params.refine_size),
        nms_iou=params.nms_iou,
        coverage=params.coverage,
        theta_cover=params.theta_cover,
        max_masks=params.max_masks,
    )
    longer = np.array([window.longer for window in seen]) / max(height, width)
    return refine_masks(
        image,
        pooled,
        refiner=params.refiner,
        outline_error=OUTLINE_CELLS * MASK_STRIDE / model.params.image_size * longer[of_window],
        longest=params.refine_size,
        refine_min_iou=params.refine_min_iou,
        nms_iou=params.nms_iou,
    )
