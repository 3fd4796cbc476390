"""The embedded dataset: photograph-like scenes with an exact hierarchy of masks, drawn from an index.

A scene has two or three regions of stuff (sky, hills, ground, wall, table) and one to three entities from `families`,
each a whole with parts and subparts. It is painted back to front with patterns, shading, soft shadows and camera noise.
The same index and seed give the same bits in every process and on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sohes.data.scenes.families import AIRBORNE, INDOORS, OUTDOORS, Family, Figure, Outline, Paint, blend, coat, ellipse
from sohes.data.scenes.paint import binomial_blur, box_blur, coverage, pattern_mix, sensor_noise, value_noise
from sohes.masks.forest import relink

EVAL_OFFSET = 1_000_000  # evaluation images start at this index, so none is a training image
DAPPLE = 0.7  # light through leaves: share of the light that varies, in patches of a tenth of the image
GRAIN = 20.0  # of a sensor at high ISO, in grey levels
BLOTCH = 20.0  # colour noise of the sensor, in grey levels, in blotches of six pixels
MIN_PIXELS = 100  # masks with fewer visible pixels are dropped
STUFF = "stuff"
SAME_IOU = 0.9  # a part that covers more than this of its parent is dropped


@dataclass(frozen=True)
class Scene:
    """image_HW3: uint8 RGB. masks_NHW: bool, visible pixels, largest first. parents_N: int64 index, -1 for a root.

    kinds_N: the family of each mask's entity, or STUFF.
    """

    image_HW3: np.ndarray
    masks_NHW: np.ndarray
    parents_N: np.ndarray
    kinds_N: tuple[str, ...]


def render_scene(index: int, *, size: int, seed: int) -> Scene:
    """The scene of an index as a `size` x `size` image with the masks of all entities, parts and subparts.

    A parent's mask contains its children's. Stuff and whole entities are roots.
    """
    if index < 0 or seed < 0 or size < 32:
        raise ValueError(f"a scene needs index and seed >= 0 and size >= 32 (got {index}, {seed}, {size})")
    rng = np.random.default_rng((seed, index))
    canvas = _Canvas(size, rng)
    horizon, outdoors = _paint_stuff(canvas, rng)
    for figure, base, height, is_on_ground in _compose(rng, horizon, outdoors):
        _paint_entity(canvas, rng, figure, base, height, is_on_ground)
    nodes_N, masks_NHW, parents_N = _visible_masks(canvas.owner_HW, np.array(canvas.parents))
    kinds_N = tuple(canvas.kinds[node] for node in nodes_N)
    return Scene(_develop(canvas.colour_HW3, rng), masks_NHW, parents_N, kinds_N)


class _Canvas:
    """The painting so far: colours, and the part that each pixel shows."""

    def __init__(self, size: int, rng: np.random.Generator):
        self.size = size
        self.colour_HW3 = np.zeros((size, size, 3), np.float32)
        self.owner_HW = np.full((size, size), -1, np.int16)
        self.parents: list[int] = []
        self.kinds: list[str] = []
        octaves = ((7, 0.5), (17, 0.32), (41, 0.18))
        noise = sum(value_noise(rng, size, cells) * np.float32(share) for cells, share in octaves)
        self.noise_HW = np.tile(noise, (2, 2))
        self.grain_HW = np.tile(value_noise(rng, size, size // 8), (2, 2))
        angle = rng.uniform(0.5, 2.6)  # the light comes from above
        self.light = (-np.sin(angle), np.cos(angle))  # (y, x)

    def node(self, parent: int, kind: str = STUFF) -> int:
        self.parents.append(parent)
        self.kinds.append(kind)
        return len(self.parents) - 1

    def paint(
        self, node: int, outlines: tuple[Outline, ...], paint: Paint, rng: np.random.Generator, *, roundness: float
    ) -> None:
        """Paint outlines (in pixels) over the canvas. roundness: width in pixels of the shaded edge."""
        found = coverage(outlines, self.size)
        if found is None:
            return
        alpha_hw, (y0, x0, y1, x1) = found
        offset_y, offset_x = rng.integers(0, self.size, 2)
        here = np.s_[offset_y : offset_y + y1 - y0, offset_x : offset_x + x1 - x0]
        noise_hw, grain_hw = self.noise_HW[here], self.grain_HW[here]
        mix_hw = pattern_mix(paint, noise_hw, grain_hw, (y0, x0), self.size)
        light_hw = np.float32(0.9) + np.float32(0.12) * grain_hw + np.float32(0.1) * noise_hw
        if roundness >= 1:
            radius = max(1, round(roundness / 2))
            soft = box_blur(alpha_hw, radius) * np.float32(1 / 240)
            dy, dx = (round(radius * component) for component in self.light)
            h, w, m = y1 - y0, x1 - x0, 2 * radius
            towards = soft[m + dy : m + dy + h, m + dx : m + dx + w]
            away = soft[m - dy : m - dy + h, m - dx : m - dx + w]
            light_hw = light_hw + np.float32(0.38 * paint.gloss) * (away - towards)
        base, second = np.array(paint.base, np.float32), np.array(paint.second, np.float32)
        colour = (base + (second - base) * mix_hw[..., None]) * light_hw[..., None]
        window = self.colour_HW3[y0:y1, x0:x1]
        window += (colour - window) * (alpha_hw.astype(np.float32) * np.float32(1 / 240))[..., None]
        self.owner_HW[y0:y1, x0:x1][alpha_hw >= 120] = node

    def darken(self, outlines: tuple[Outline, ...], softness: float, depth: float) -> None:
        """Cast a soft shadow of the outlines. softness: pixels; depth: share of the light that it removes."""
        found = coverage(outlines, self.size)
        if found is None:
            return
        alpha_hw, (y0, x0, y1, x1) = found
        radius = max(1, round(softness / 2))
        soft = box_blur(alpha_hw, radius)
        m = 2 * radius
        top, left = max(0, y0 - m), max(0, x0 - m)
        bottom, right = min(self.size, y1 + m), min(self.size, x1 + m)
        soft = soft[top - y0 + m : bottom - y0 + m, left - x0 + m : right - x0 + m]
        self.colour_HW3[top:bottom, left:right] *= (1 - np.float32(depth / 240) * soft)[..., None]


# ---------------------------------------------------------------- composition


def _paint_stuff(canvas: _Canvas, rng: np.random.Generator) -> tuple[float, bool]:
    """Paint the background. Returns (horizon as a fraction of the height, whether the scene is outdoors)."""
    outdoors = bool(rng.random() < 0.55)
    horizon = rng.uniform(0.38, 0.58)
    if outdoors:
        back = coat(rng, hue=(0.5, 0.64), sat=(0.15, 0.6), val=(0.7, 1.0), patterns=("plain",))
        front = coat(rng, hue=(0.08, 0.4), sat=(0.2, 0.6), val=(0.35, 0.8), patterns=("mottled", "plain", "stripes"))
    else:
        back = coat(
            rng, sat=(0.05, 0.45), val=(0.5, 0.9), patterns=("plain", "stripes", "checks", "spots"), period=(0.08, 0.16)
        )
        front = coat(
            rng,
            hue=(0.02, 0.14),
            sat=(0.2, 0.6),
            val=(0.25, 0.75),
            patterns=("stripes", "plain", "checks"),
            period=(0.06, 0.12),
        )
    back = _softer(back, 0.35)
    canvas.paint(canvas.node(-1), (_band(rng, -0.1, 0.0, canvas.size),), back, rng, roundness=0)
    if outdoors:
        _sky_light(canvas, rng, horizon)
        if rng.random() < 0.55:
            hills = coat(rng, hue=(0.25, 0.6), sat=(0.15, 0.45), val=(0.35, 0.7), patterns=("plain", "mottled"))
            waves = rng.uniform(0.03, 0.08)
            canvas.paint(
                canvas.node(-1),
                (_band(rng, horizon - waves - 0.08, waves, canvas.size),),
                _softer(hills, 0.5),
                rng,
                roundness=4,
            )
    edge = rng.uniform(0.0, 0.02) if outdoors else 0.0
    ground = (_band(rng, horizon, edge, canvas.size),)
    if not outdoors:
        canvas.darken(ground, canvas.size / 12, 0.25)
    canvas.paint(canvas.node(-1), ground, _softer(front, 0.5), rng, roundness=0)
    return horizon, outdoors


def _softer(paint: Paint, contrast: float) -> Paint:
    """The same paint with its second colour nearer to its base, for large surfaces."""
    return replace(paint, second=blend(paint.base, paint.second, contrast))


def _band(rng: np.random.Generator, top: float, waves: float, size: int) -> Outline:
    """Everything below a wavy line at the height `top` (fractions of the image)."""
    x = np.linspace(-0.05, 1.05, 64)
    tilt = rng.uniform(-0.03, 0.03)
    line = (
        top
        + tilt * (x - 0.5)
        + waves * (np.sin(x * rng.uniform(3, 7) + rng.uniform(0, 6)) + 0.4 * np.sin(x * 13 + rng.uniform(0, 6)))
    )
    return np.concatenate([np.stack([x, line], 1), [(1.05, 1.1), (-0.05, 1.1)]]) * size


def _sky_light(canvas: _Canvas, rng: np.random.Generator, horizon: float) -> None:
    """Paint clouds, and haze towards the horizon. They belong to the sky and are no entities."""
    height = np.clip(np.arange(canvas.size, dtype=np.float32) / np.float32(horizon * canvas.size), 0, 1)
    clouds = np.clip(canvas.noise_HW[: canvas.size, : canvas.size] * 3 - np.float32(rng.uniform(1.5, 2.6)), 0, 1)
    white = np.clip(height[:, None] * np.float32(0.45) + clouds * np.float32(0.6), 0, 0.85)[..., None]
    canvas.colour_HW3 += (np.array((250, 248, 244), np.float32) - canvas.colour_HW3) * white


def _compose(
    rng: np.random.Generator, horizon: float, outdoors: bool
) -> list[tuple[Figure, tuple[float, float], float, bool]]:
    """Figures with foot (x, y), height (both fractions) and whether they stand on the ground, farthest first."""
    families = OUTDOORS if outdoors else INDOORS
    count = int(rng.choice((1, 2)))
    picked = rng.permutation(len(families))[:count]
    slots = (rng.permutation(count) + 0.5) / count
    placed = []
    for rank, family in enumerate(picked):
        near = rng.uniform(0.55, 1.0) if rank == 0 else rng.uniform(0.05, 0.8)
        height = (0.63 + 0.3 * near) * rng.uniform(0.9, 1.15)
        x = 0.08 + 0.84 * slots[rank] + rng.uniform(-0.08, 0.08)
        y = horizon + 0.06 + (0.88 - horizon) * near
        placed.append((_figure(families[family], rng), (x, y), height, True))
    if outdoors and rng.random() < 0.15:
        figure, height = _figure(AIRBORNE[0], rng), rng.uniform(0.22, 0.36)
        placed.append((figure, (rng.uniform(0.15, 0.85), rng.uniform(height + 0.02, horizon + 0.02)), height, False))
    return sorted(placed, key=lambda item: item[1][1] if item[3] else 0)


def _figure(family: Family, rng: np.random.Generator) -> Figure:
    return replace(family(rng), kind=family.__name__)


def _paint_entity(
    canvas: _Canvas,
    rng: np.random.Generator,
    figure: Figure,
    foot: tuple[float, float],
    height: float,
    is_on_ground: bool,
) -> None:
    """Paint a figure in a random pose: mirrored, stretched, leaning slightly. Wide figures are scaled down."""
    outlines = np.concatenate([o for stroke in figure.strokes for o in stroke.outlines])
    width = float(np.ptp(outlines[:, 0]))
    scale = canvas.size * height * min(1.0, 1.5 / width)
    stretch, lean = rng.uniform(0.9, 1.15), rng.normal(0, 0.05 if is_on_ground else 0.12)
    mirror = 1 if rng.random() < 0.5 else -1
    c, s = np.cos(lean), np.sin(lean)
    turn = np.array([[mirror * stretch * c, s], [mirror * stretch * -s, c]]) * scale

    def pose(outline: Outline) -> Outline:
        x = outline[:, 0] * turn[0, 0] + outline[:, 1] * turn[0, 1]
        y = outline[:, 0] * turn[1, 0] + outline[:, 1] * turn[1, 1]
        return np.stack([x, -y], 1)

    left, right = pose(outlines)[:, 0].min(), pose(outlines)[:, 0].max()
    cut = 0.12 * (right - left)  # at most this much may be outside the image
    x = min(max(foot[0] * canvas.size, -cut - left), canvas.size + cut - right)
    origin = np.array((x, foot[1] * canvas.size))
    if is_on_ground:
        middle, half = (left + right) / 2 - 0.35 * (right - left) / 2 * canvas.light[1], (right - left) / 2
        canvas.darken((ellipse(middle, 0, 1.05 * half, 0.16 * half) + origin,), canvas.size / 24, 0.5)
    first = len(canvas.parents)
    for parent in figure.parents:
        canvas.node(first + parent if parent >= 0 else -1, figure.kind)
    below = np.array((0.0, 0.012 * canvas.size))
    for stroke in figure.strokes:
        placed = tuple(pose(o) + origin for o in stroke.outlines)
        extent = min(float(np.ptp(np.concatenate(placed), axis=0).min()), 0.4 * canvas.size)
        if figure.parents[stroke.part] == 0:  # parts cast shadows on each other; subparts do not
            canvas.darken(tuple(o + below for o in placed), max(2.0, 0.08 * extent), 0.28)
        canvas.paint(first + stroke.part, placed, stroke.paint, rng, roundness=0.35 * extent)


# ---------------------------------------------------------------- camera and masks


def _develop(colour_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply uneven light, vignette, lens softness, a tint and sensor noise. Returns (H, W, 3) uint8."""
    size = len(colour_HW3)
    along = np.linspace(-1, 1, size, dtype=np.float32)
    slope_y, slope_x, vignette = rng.uniform((-0.18, -0.18, 0.04), (0.06, 0.18, 0.14)).astype(np.float32)
    light_HW = 1 + slope_y * along[:, None] + slope_x * along[None, :]
    light_HW = (light_HW - vignette * (along[:, None] * along[:, None] + along[None, :] * along[None, :])) * np.float32(
        rng.uniform(0.9, 1.1)
    )
    dapple_HW = value_noise(rng, size, 6) * np.float32(0.6) + value_noise(rng, size, 14) * np.float32(0.4)
    light_HW = light_HW * (1 + np.float32(DAPPLE * rng.uniform(0.5, 1.5)) * (2 * dapple_HW - 1))
    warmth = np.float32(rng.uniform(-0.06, 0.06))
    image = colour_HW3 * light_HW[..., None] * np.array((1 + warmth, 1, 1 - warmth), np.float32)
    image = binomial_blur(image, rng.uniform(0.2, 0.7))
    noise = sensor_noise(rng, (size, size, 3))
    image += noise * np.float32(GRAIN * rng.uniform(0.5, 1.5))
    image += (
        2 * np.float32(BLOTCH) * np.stack([value_noise(rng, size, size // 6) - np.float32(0.5) for _ in range(3)], 2)
    )
    return np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)


def _visible_masks(owner_HW: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, masks and parents from the map of owners, without invisible nodes and parts equal to their whole."""
    masks = owner_HW[None] == np.arange(len(parents))[:, None, None]
    for node in range(len(parents) - 1, -1, -1):  # a child has a higher index than its parent
        if parents[node] >= 0:
            masks[parents[node]] |= masks[node]
    areas = masks.sum((1, 2))
    kept = [node for node in np.argsort(-areas, kind="stable") if areas[node] >= MIN_PIXELS]
    above = relink(parents, np.array(kept, np.int64))
    distinct = [
        node
        for node, parent in zip(kept, above, strict=True)
        if parent < 0 or areas[node] <= SAME_IOU * areas[kept[parent]]
    ]
    kept_K = np.array(distinct, np.int64)
    return kept_K, masks[kept_K], relink(parents, kept_K)
