"""Random views of the pulled images that backbones learn from, as training batches.

DINO compares large and small crops of one image, differently coloured; a distilled backbone sees one crop, as its
teacher does, mildly coloured.

DINO's geometry and colours as in Caron et al. (2021), appendix on augmentation; uint8 (H, W, 3) RGB in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from sohes.backbone.vit import Backbone
from sohes.data.imaging import shrunk
from sohes.data.store.images import ImageStore
from sohes.errors import SohesError
from sohes.params import DinoParams, DistillParams
from sohes.structures import Movable
from sohes.train.loading import Loaded, Position, from_epochs, normalised

GLOBAL_AREA = (0.4, 1.0)  # of the image
LOCAL_AREA = (0.05, 0.4)
VIEW_AREA = (0.25, 1.0)  # of a distilled backbone's view
ASPECT = (3 / 4, 4 / 3)
BLUR = (1.0, 0.1)  # probability for the first and the second global crop
LOCAL_BLUR = 0.5
SOLARISE = (0.0, 0.2)
CACHED_BYTES = 2**29  # of decoded images: a small collection is read once, a large one over and over
_THREADS = 8
_ORDER, _CROPS = 0, 1  # independent random streams


class Crops(NamedTuple):
    """Of one image: two large ones, and the small ones."""

    large: list[np.ndarray]
    small: list[np.ndarray]


@dataclass(frozen=True)
class CropBatch(Movable):
    """Normalised crops of B images. large: (2 B, 3, S, S), the first crop of each image and then the second.

    small: (L B, 3, s, s) likewise; None without local crops.
    """

    large: Tensor
    small: Tensor | None


@dataclass(frozen=True)
class ViewBatch(Movable):
    """pixels_BHW3: uint8 RGB, a quarter of what would travel to a GPU normalised."""

    pixels_BHW3: Tensor


class _Photographs:
    """The image of a position: each epoch is shuffled by (seed, epoch). SohesError without any image."""

    def __init__(self, images: ImageStore, params: DinoParams | DistillParams, *, seed: int) -> None:
        if not len(images.image_ids):
            raise SohesError("there are no images to train the backbone on: run `sohes pull` with more of them")
        self.images, self.batch_size, self.image_size, self.seed = images, params.batch_size, params.image_size, seed

    @cached_property
    def read(self) -> Callable[[int], np.ndarray]:
        """Made where it is used, since it cannot be pickled into a worker."""
        return cached(lambda i: shrunk(self.images.read(i), 2 * self.image_size), limit=CACHED_BYTES)

    def drawn(self, position: Position) -> tuple[np.random.Generator, np.ndarray]:
        """The random numbers of a position, and its image at about twice the size of a view."""
        step, k = position
        ids = self.images.image_ids
        place = next(from_epochs(step * self.batch_size + k, len(ids), self.seed, _ORDER))
        return np.random.default_rng((self.seed, _CROPS, step, k)), self.read(int(ids[place]))

    def __getitems__(self, positions: Sequence[Position]) -> list[Any]:
        """The loader asks for a part of a batch at once: its images are cropped side by side, but not in a worker."""
        if get_worker_info():
            return [self[position] for position in positions]
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(self.__getitem__, positions))

    def __getitem__(self, position: Position) -> Any:
        raise NotImplementedError


class ViewDataset(_Photographs):
    """`dataset[step, k]`: one view of image k of a step's batch."""

    def __getitem__(self, position: Position) -> np.ndarray:
        rng, image_HW3 = self.drawn(position)
        return mildly_coloured(rng, random_crop(rng, image_HW3, self.image_size, VIEW_AREA))

    def collate(self, samples: Sequence[np.ndarray]) -> Loaded:
        return Loaded(ViewBatch(torch.from_numpy(np.stack(samples))))


class CropDataset(_Photographs):
    """`dataset[step, k]`: the crops of image k of a step's batch."""

    def __init__(self, images: ImageStore, backbone: Backbone, params: DinoParams, *, seed: int) -> None:
        super().__init__(images, params, seed=seed)
        self.params = params
        self.patch_size, self.mean, self.std = backbone.patch_size, backbone.mean, backbone.std

    def __getitem__(self, position: Position) -> Crops:
        half = self.patch_size * max(1, round(self.params.image_size / (2 * self.patch_size)))
        return multi_crop(
            *self.drawn(position),
            global_size=self.params.image_size,
            local_size=half,
            local_crops=self.params.local_crops,
        )

    def collate(self, samples: Sequence[Crops]) -> Loaded:
        large, small = (
            [crop for view in zip(*crops, strict=True) for crop in view] for crops in zip(*samples, strict=True)
        )
        return Loaded(
            CropBatch(normalised(large, self.mean, self.std), normalised(small, self.mean, self.std) if small else None)
        )


def cached(read: Callable[[int], np.ndarray], *, limit: int) -> Callable[[int], np.ndarray]:
    """`read`, but an image is read once while all that are kept stay below `limit` bytes."""
    kept: dict[int, np.ndarray] = {}
    size = 0

    def read_once(image_id: int) -> np.ndarray:
        nonlocal size
        if image_id in kept:
            return kept[image_id]
        image_HW3 = read(image_id)
        if size + image_HW3.nbytes <= limit:
            kept[image_id] = image_HW3
            size += image_HW3.nbytes
        return image_HW3

    return read_once


# ---------------------------------------------------------------- one image


def multi_crop(
    rng: np.random.Generator, image_HW3: np.ndarray, *, global_size: int, local_size: int, local_crops: int
) -> Crops:
    """Two global crops of side `global_size` and `local_crops` local ones of side `local_size`."""
    large = [
        _colour(rng, random_crop(rng, image_HW3, global_size, GLOBAL_AREA), blur=BLUR[k], solarise=SOLARISE[k])
        for k in range(2)
    ]
    small = [
        _colour(rng, random_crop(rng, image_HW3, local_size, LOCAL_AREA), blur=LOCAL_BLUR, solarise=0.0)
        for _ in range(local_crops)
    ]
    return Crops(large, small)


def random_crop(rng: np.random.Generator, image_HW3: np.ndarray, size: int, area: tuple[float, float]) -> np.ndarray:
    """A random part of the image, resized to a square and mirrored half of the time. area: of the image."""
    height, width = image_HW3.shape[:2]
    share = rng.uniform(*area) * height * width
    aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    h = min(height, max(1, round(math.sqrt(share / aspect))))
    w = min(width, max(1, round(math.sqrt(share * aspect))))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = image_HW3[y : y + h, x : x + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    shrinks = h > size and w > size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def mildly_coloured(rng: np.random.Generator, image_HW3: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation changed by up to a fifth, in one weighted sum with the image's greys."""
    brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3)
    grey_HW3 = cv2.cvtColor(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    gain, offset = brightness * contrast, brightness * (1 - contrast) * float(grey_HW3.mean())
    return cv2.addWeighted(image_HW3, gain * saturation, grey_HW3, gain * (1 - saturation), offset)


def _colour(rng: np.random.Generator, image_HW3: np.ndarray, *, blur: float, solarise: float) -> np.ndarray:
    """Jitter (0.8), greyscale (0.2), blur and solarisation, each with its probability."""
    chances = rng.random(4)
    brightness, contrast, saturation = rng.uniform((0.6, 0.6, 0.8), (1.4, 1.4, 1.2))
    hue = round(rng.uniform(-0.1, 0.1) * 180)  # OpenCV's unit for uint8 is two degrees
    sigma = rng.uniform(0.1, 2.0)
    if chances[0] < 0.8:
        image_HW3 = _jitter(image_HW3, brightness, contrast, saturation, hue)
    if chances[1] < 0.2:
        image_HW3 = np.repeat(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if chances[2] < blur:
        image_HW3 = cv2.GaussianBlur(image_HW3, (0, 0), sigma)
    if chances[3] < solarise:
        image_HW3 = np.where(image_HW3 < 128, image_HW3, 255 - image_HW3)
    return image_HW3


def _jitter(image_HW3: np.ndarray, brightness: float, contrast: float, saturation: float, hue: int) -> np.ndarray:
    values = image_HW3.astype(np.float32) * np.float32(brightness)
    middle = values.mean()
    values = middle + np.float32(contrast) * (values - middle)
    grey = values @ np.array((0.299, 0.587, 0.114), np.float32)
    values = grey[..., None] + np.float32(saturation) * (values - grey[..., None])
    hsv = cv2.cvtColor(np.clip(values, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
