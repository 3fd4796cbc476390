"""Weak and strong views of a labelled image (paper 3.3): geometry, colour, copy-paste. Pure functions.

The paper names the two kinds of views and, in appendix E, copy-paste; geometry, colours and all numbers are ours.
All views are S x S squares. The weak view flips and fits the image; the strong one adds large-scale jitter,
colour jitter, greyscale, blur and copy-paste. A `View` holds the geometry, so that masks travel between views.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sohes import masks
from sohes.data.imaging import PADDING_RGB, letterbox_size
from sohes.masks import forest
from sohes.masks.windows import Box
from sohes.params import AugmentParams
from sohes.structures import MaskSet

MIN_PIXELS = 16  # of a mask in a view: one cell of a stride-4 mask map
MIN_VISIBLE = 0.2  # of a mask that something was pasted over: below, it is no longer a label
SAME_EXTENT = 0.9  # of its parent's area: a child that covers more of it is the same mask after a crop
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class View:
    """Flip, resize to `resized_hw`, place at `offset_yx` on a canvas (S x S, usually); what lies outside is cut off.

    Pixel centres are mapped in whole numbers: the same on every machine, and mapping there and back restores every
    pixel that the view shows, unless it shrinks the image.
    """

    height: int
    width: int
    resized_hw: tuple[int, int]
    offset_yx: tuple[int, int]
    flip: bool
    canvas_hw: tuple[int, int]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Half-open box (y0, x0, y1, x1) of the canvas that shows the image; empty if it lies outside."""
        (h, w), (oy, ox), (bottom, right) = self.resized_hw, self.offset_yx, self.canvas_hw
        y0, x0 = min(max(0, oy), bottom), min(max(0, ox), right)
        return y0, x0, max(y0, min(bottom, oy + h)), max(x0, min(right, ox + w))

    def apply_to_image(self, image_HW3: np.ndarray) -> np.ndarray:
        """(S, S, 3) uint8: the image in this view, padded."""
        h, w = self.resized_hw
        if (h, w) != image_HW3.shape[:2]:
            shrinks = h < self.height or w < self.width
            image_HW3 = cv2.resize(image_HW3, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        y0, x0, y1, x1 = self.window
        (oy, ox), flipped = self.offset_yx, image_HW3[:, ::-1] if self.flip else image_HW3
        seen = flipped[y0 - oy : y1 - oy, x0 - ox : x1 - ox]
        bottom, right = self.canvas_hw
        return cv2.copyMakeBorder(seen, y0, bottom - y1, x0, right - x1, cv2.BORDER_CONSTANT, value=PADDING_RGB)

    def shows(self, boxes_xywh_N4: np.ndarray) -> np.ndarray:
        """(N,) bool: for each box of the image, whether a part of it lies in what the view shows."""
        top, left, bottom, right = shared_box(whole(self.height, self.width), self)
        x0, y0, width, height = boxes_xywh_N4.T
        return (x0 < right) & (x0 + width > left) & (y0 < bottom) & (y0 + height > top)

    def draw(self, found: MaskSet, *, corner_yx: tuple[int, int] = (0, 0)) -> np.ndarray:
        """(N, S, S) bool masks in this view, from masks on the image, which are never drawn at the image's size.

        Each pixel takes the image's pixel that its centre falls into: one step, so nothing is rounded twice.
        corner_yx: where the image of this view lies in that of the masks.
        """
        rows, columns, from_y, from_x = shared_rectangle(whole(self.height, self.width), self)
        from_y, from_x = from_y + corner_yx[0], from_x + corner_yx[1]
        order = -1 if self.flip else 1  # run lengths are read from left to right
        drawn = np.zeros((len(found), *self.canvas_hw), bool)
        for i, mask in enumerate(drawn):
            mask[rows, columns] = masks.sample(found, i, from_y, from_x[::order])[:, ::order]
        return drawn


@dataclass(frozen=True)
class Labelled:
    """An image and its masks in one frame. image_HW3: uint8. masks_NHW: bool. parents_N: -1 for a root."""

    image_HW3: np.ndarray
    masks_NHW: np.ndarray
    parents_N: np.ndarray


@dataclass(frozen=True)
class Guest:
    """An entity and its descendants, to be pasted into another image.

    image_HW3: uint8, the part of their image in the box around them, which begins at `corner_yx`.  found: their masks,
    in the whole image.
    """

    image_HW3: np.ndarray
    found: MaskSet
    corner_yx: tuple[int, int]

    @classmethod
    def cut_out(cls, image_HW3: np.ndarray, found: MaskSet) -> Guest:
        """ValueError if no mask has a pixel."""
        boxes = masks.boxes_xywh(found).astype(np.int64)
        boxes = boxes[boxes[:, 2] > 0]
        (x0, y0), (x1, y1) = boxes[:, :2].min(0).tolist(), (boxes[:, :2] + boxes[:, 2:]).max(0).tolist()
        return cls(image_HW3[y0:y1, x0:x1], found, (y0, x0))


def whole(height: int, width: int) -> View:
    """The view of an image that changes nothing."""
    return View(height, width, (height, width), (0, 0), False, (height, width))


def shared_rectangle(source: View, target: View) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """Rows and columns of the target's canvas inside the source's window, and the source's pixels that they show."""
    to_y, from_y = _axis(source, target, 0)
    to_x, from_x = _axis(source, target, 1)
    rows, columns = (slice(int(to[0]), int(to[-1]) + 1) if len(to) else slice(0, 0) for to in (to_y, to_x))
    return rows, columns, from_y, from_x


def shared_box(source: View, target: View) -> Box:
    """The half-open box (y0, x0, y1, x1) of the source's pixels that the target shows; all zeros if there are none."""
    _, _, from_y, from_x = shared_rectangle(source, target)
    if not len(from_y) or not len(from_x):
        return 0, 0, 0, 0
    return int(from_y.min()), int(from_x.min()), int(from_y.max()) + 1, int(from_x.max()) + 1


def _axis(source: View, target: View, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the target along one axis inside the source's window, and the source's pixels that they show."""
    pixels = np.arange(target.window[axis], target.window[axis + 2])
    place, source_side, target_side = pixels - target.offset_yx[axis], source.resized_hw[axis], target.resized_hw[axis]
    # flips are undone first, so that a centre between two pixels always falls to the same one
    if axis == 1 and target.flip:
        place = target_side - 1 - place
    found = (2 * place + 1) * source_side // (2 * target_side)
    if axis == 1 and source.flip:
        found = source_side - 1 - found
    found += source.offset_yx[axis]
    real = (found >= source.window[axis]) & (found < source.window[axis + 2])
    return pixels[real], found[real]


# ---------------------------------------------------------------- views


def weak_view(height: int, width: int, *, size: int, rng: np.random.Generator) -> View:
    """Flip and fit (paper 3.3): the letterbox of evaluation, mirrored half of the time."""
    return View(height, width, letterbox_size(height, width, size), (0, 0), bool(rng.random() < 0.5), (size, size))


def strong_geometry(
    height: int, width: int, *, size: int, scale_min: float, scale_max: float, rng: np.random.Generator
) -> View:
    """Flip and large-scale jitter: a factor on the fitted size, then a random crop or a random place on the square."""
    scale = rng.uniform(scale_min, scale_max)
    h, w = (max(1, round(side * scale)) for side in letterbox_size(height, width, size))
    oy, ox = (int(rng.integers(min(0, size - side), max(0, size - side) + 1)) for side in (h, w))
    return View(height, width, (h, w), (oy, ox), bool(rng.random() < 0.5), (size, size))


def augmented(
    shown: Labelled,
    view: View,
    params: AugmentParams,
    *,
    max_targets: int,
    rng: np.random.Generator,
    guest: Guest | None = None,
) -> Labelled:
    """An image shown in `view`, with `guest` pasted over it, in other colours.

    Masks with fewer than MIN_PIXELS left, hidden ones and those no longer distinct from their parent are dropped and
    their children relinked; so are those over `max_targets`, across all scales. The guest's masks come last.
    """
    square = settle(shown)
    if guest is not None:
        place = guest_view(guest, view, scale_min=params.scale_min, scale_max=params.scale_max, rng=rng)
        visible = place.draw(guest.found, corner_yx=guest.corner_yx) & _inside(view)
        square = paste(square, settle(Labelled(place.apply_to_image(guest.image_HW3), visible, guest.found.parents)))
    image = change_colours(
        square.image_HW3, jitter=params.colour_jitter, greyscale=params.greyscale, blur=params.blur, rng=rng
    )
    # the padding keeps its one colour in every view
    image[~_inside(view)] = PADDING_RGB
    kept = sample_across_scales(masks.pixel_counts(square.masks_NHW), max_targets, rng=rng)
    return Labelled(image, square.masks_NHW[kept], forest.relink(square.parents_N, kept))


def _inside(view: View) -> np.ndarray:
    """Bool canvas: true in the view's window."""
    y0, x0, y1, x1 = view.window
    inside = np.zeros(view.canvas_hw, bool)
    inside[y0:y1, x0:x1] = True
    return inside


# ---------------------------------------------------------------- colour


def change_colours(
    image_HW3: np.ndarray, *, jitter: float, greyscale: float, blur: float, rng: np.random.Generator
) -> np.ndarray:
    """Colour jitter of strength `jitter` in [0, 1], greyscale and blur with the given probabilities.

    Brightness, contrast, saturation and hue are one affine map of the colours, hence one pass over the image.
    """
    brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3)
    turn = rng.uniform(-jitter, jitter) * np.pi / 5
    if rng.random() < greyscale:
        saturation = 0.0
    cos, sin = np.cos(turn), np.sin(turn)
    turned = np.linalg.inv(_TO_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ _TO_YIQ
    mixed = saturation * np.eye(3) + (1 - saturation) * np.tile(_LUMA, (3, 1))
    linear = brightness * contrast * (mixed @ turned)
    middle = brightness * (1 - contrast) * float(_LUMA @ cv2.mean(image_HW3)[:3])
    changed = cv2.transform(image_HW3, np.column_stack([linear, np.full(3, middle)]))
    sigma = rng.uniform(0.1, 2.0) * image_HW3.shape[0] / 224  # DINO's range, given there for 224 pixels
    return cv2.GaussianBlur(changed, (0, 0), sigma) if rng.random() < blur else changed


# ---------------------------------------------------------------- copy-paste


def subtree(parents_N: np.ndarray, root: int) -> np.ndarray:
    """Indices of a mask and all its descendants, the mask itself first."""
    below = np.flatnonzero(forest.forest_ancestors(parents_N)[root])
    return np.concatenate([[root], below]).astype(np.int64)


def guest_view(guest: Guest, host: View, *, scale_min: float, scale_max: float, rng: np.random.Generator) -> View:
    """Where a guest lands: jittered in size, flipped half of the time, its centre in the host's window. A guest larger
    than half of the square is first fitted to that."""
    height, width = guest.image_HW3.shape[:2]
    fit = min(1.0, min(host.canvas_hw) / 2 / max(height, width)) * rng.uniform(scale_min, scale_max)
    h, w = max(1, round(height * fit)), max(1, round(width * fit))
    y0, x0, y1, x1 = host.window
    oy, ox = int(rng.integers(y0, max(y0 + 1, y1))) - h // 2, int(rng.integers(x0, max(x0 + 1, x1))) - w // 2
    return View(height, width, (h, w), (oy, ox), bool(rng.random() < 0.5), host.canvas_hw)


def paste(host: Labelled, guest: Labelled) -> Labelled:
    """The guest's masks cover the host: its masks are appended with their forest, the host's keep what still shows.

    Host masks of which less than MIN_VISIBLE shows are dropped and their children relinked.
    """
    if not len(guest.masks_NHW):
        return host
    cover = np.asarray(guest.masks_NHW.any(axis=0))
    visible, kept = occlude(host.masks_NHW, cover)
    shown = settle(
        Labelled(
            np.where(cover[:, :, None], guest.image_HW3, host.image_HW3),
            visible[kept],
            forest.relink(host.parents_N, kept),
        )
    )
    below = np.where(guest.parents_N >= 0, guest.parents_N + len(shown.masks_NHW), -1)
    return Labelled(
        shown.image_HW3,
        np.concatenate([shown.masks_NHW, guest.masks_NHW]),
        np.concatenate([shown.parents_N, below]),
    )


def occlude(masks_NHW: np.ndarray, cover_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W) each mask without what `cover` hides, and the indices of masks of which MIN_VISIBLE is left."""
    visible = masks_NHW & ~cover_HW
    return visible, np.flatnonzero(masks.pixel_counts(visible) >= MIN_VISIBLE * masks.pixel_counts(masks_NHW))


def settle(shown: Labelled) -> Labelled:
    """Only the masks that are `distinct`, relinked."""
    kept = distinct(masks.pixel_counts(shown.masks_NHW), shown.parents_N)
    if len(kept) == len(shown.parents_N):
        return shown
    return Labelled(shown.image_HW3, shown.masks_NHW[kept], forest.relink(shown.parents_N, kept))


def distinct(areas_N: np.ndarray, parents_N: np.ndarray) -> np.ndarray:
    """Ascending indices of the masks with at least MIN_PIXELS that fill less than SAME_EXTENT of their parent."""
    kept: set[int] = set()
    for j in np.argsort(forest.levels(parents_N), kind="stable"):  # parents before children
        parent = int(parents_N[j])
        while parent >= 0 and parent not in kept:
            parent = int(parents_N[parent])
        if areas_N[j] >= MIN_PIXELS and (parent < 0 or areas_N[j] <= SAME_EXTENT * areas_N[parent]):
            kept.add(int(j))
    return np.array(sorted(kept), np.int64)


def sample_across_scales(areas_N: np.ndarray, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """At most `count` indices, ascending: scales (doublings of the side) take turns, each with one at random.

    Uniform sampling would leave mostly small parts, of which there are many, and rarely a whole entity.
    """
    n = len(areas_N)
    if n <= count:
        return np.arange(n)
    scale = np.floor(np.log2(np.maximum(areas_N, 1)) / 2).astype(np.int64)
    shuffled = rng.permutation(n)
    turn = np.empty(n, np.int64)
    for s in np.unique(scale):
        members = shuffled[scale[shuffled] == s]
        turn[members] = np.arange(len(members))
    return np.sort(shuffled[np.argsort(turn[shuffled], kind="stable")][:count])
