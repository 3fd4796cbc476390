"""The entities of the embedded scenes: each family draws a figure of parts and subparts. Pure functions.

A family's geometry is consistent, so it can be learned; its proportions, colours and patterns vary. A figure stands on
the line y = 0 and is about one unit tall; x grows to the right, y upwards.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

Outline = np.ndarray  # (P, 2) float64 corners (x, y) of a closed polygon
Colour = tuple[float, float, float]  # RGB in [0, 255]
Range = tuple[float, float]  # of hue, saturation, value or period: from, to
PATTERNS = ("plain", "stripes", "spots", "checks", "mottled")
SUBPART_CONTRAST = 0.35  # any clustering of colours would find subparts of strong, plain colours


@dataclass(frozen=True)
class Paint:
    """Two colours and the pattern that mixes them. period: of the pattern, as a fraction of the image's side."""

    base: Colour
    second: Colour
    pattern: str = "plain"
    period: float = 0.05
    angle: float = 0.0
    gloss: float = 1.0  # strength of the shading that makes the part look round


@dataclass(frozen=True)
class Stroke:
    """One coat of paint on a part, over the union of the outlines."""

    part: int
    outlines: tuple[Outline, ...]
    paint: Paint


@dataclass
class Figure:
    """An entity. parents: of each part, with a lower index than the part; part 0 is the whole, the union of all parts.

    strokes: in painting order. A part can have several, because decoration painted over a part belongs to it.
    kind: the family's name, set when the figure is placed in a scene.
    """

    parents: list[int] = field(default_factory=lambda: [-1])
    strokes: list[Stroke] = field(default_factory=list)
    kind: str = ""

    def part(self, parent: int = 0) -> int:
        self.parents.append(parent)
        return len(self.parents) - 1

    def add(self, *outlines: Outline, paint: Paint, parent: int = 0) -> int:
        """Paint a new part and return its index. A subpart is tinted by the paint beneath it, if there is any yet."""
        part = self.part(parent)
        beneath = [stroke.paint for stroke in self.strokes if parent and stroke.part == parent]
        self.stroke(part, *outlines, paint=tinted(paint, beneath[0]) if beneath else paint)
        return part

    def stroke(self, part: int, *outlines: Outline, paint: Paint) -> None:
        self.strokes.append(Stroke(part, outlines, paint))


# ---------------------------------------------------------------- outlines


def ellipse(x: float, y: float, rx: float, ry: float, *, square: float = 1.0) -> Outline:
    """A superellipse: `square` 1 is an ellipse, and towards 0 a box with round corners."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    return np.stack([x + rx * np.sign(c) * np.abs(c) ** square, y + ry * np.sign(s) * np.abs(s) ** square], 1)


def box(x0: float, y0: float, x1: float, y1: float, *, square: float = 0.25) -> Outline:
    return ellipse((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, square=square)


def smooth(*corners: tuple[float, float]) -> Outline:
    """A closed curve near the corners (three rounds of Chaikin's corner cutting)."""
    curve = np.array(corners, np.float64)
    for _ in range(3):
        ahead = np.roll(curve, -1, 0)
        curve = np.stack([0.75 * curve + 0.25 * ahead, 0.25 * curve + 0.75 * ahead], 1).reshape(-1, 2)
    return curve


def blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, *, lumps: float = 0.08) -> Outline:
    """An ellipse with a wavy edge; lumps: height of the waves as a fraction of the radius."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 1 + sum(lumps / k * 2 * np.sin(k * t + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    return np.stack([x + rx * radius * np.cos(t), y + ry * radius * np.sin(t)], 1)


# ---------------------------------------------------------------- paints


def colour(rng: np.random.Generator, hue: Range, sat: Range, val: Range) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*sat), rng.uniform(*val))
    return (255 * r, 255 * g, 255 * b)


def blend(start: Colour, end: Colour, share: float) -> Colour:
    """The colour at a fraction `share` of the way from `start` to `end`."""
    r, g, b = (s + share * (e - s) for s, e in zip(start, end, strict=True))
    return (r, g, b)


def tinted(paint: Paint, beneath: Paint) -> Paint:
    """The paint with its contrast to the paint beneath reduced to SUBPART_CONTRAST."""
    first, second = (blend(beneath.base, colour, SUBPART_CONTRAST) for colour in (paint.base, paint.second))
    return replace(paint, base=first, second=second)


def coat(
    rng: np.random.Generator,
    *,
    hue: Range = (0, 1),
    sat: Range = (0.25, 0.8),
    val: Range = (0.45, 0.95),
    patterns: tuple[str, ...] = PATTERNS,
    period: Range = (0.035, 0.08),
    gloss: float = 1.0,
) -> Paint:
    """A paint with a random pattern and a second colour at a random distance from the base."""
    base = colour(rng, hue, sat, val)
    other = colour(rng, (0, 1), (0.0, 0.7), (0.15, 1.0))
    second = blend(base, other, rng.uniform(0.35, 0.9))
    pattern = patterns[rng.integers(len(patterns))]
    return Paint(base, second, pattern, rng.uniform(*period), rng.uniform(0, np.pi), gloss)


def plain(rng: np.random.Generator, hue: Range, sat: Range, val: Range) -> Paint:
    return coat(rng, hue=hue, sat=sat, val=val, patterns=("plain",))


DARK = ((0.0, 1.0), (0.0, 0.3), (0.06, 0.2))
GLASS = ((0.5, 0.62), (0.15, 0.5), (0.55, 0.95))
WOOD = ((0.05, 0.1), (0.35, 0.7), (0.3, 0.6))
LEAF = ((0.22, 0.42), (0.4, 0.8), (0.35, 0.75))


# ---------------------------------------------------------------- families


def quadruped(rng: np.random.Generator) -> Figure:
    """Four legs, body with a tail, head with an eye; side view."""
    figure, hide = Figure(), coat(rng, hue=(0.0, 0.16), val=(0.45, 0.95))
    sock = coat(rng, hue=(0.0, 0.16), val=(0.3, 0.8), patterns=("plain", "mottled"))
    leg, wide = rng.uniform(0.34, 0.42), rng.uniform(0.06, 0.075)
    for x in (-0.36, -0.19, 0.2, 0.37):
        figure.add(box(x - wide, 0, x + wide, leg + 0.1, square=0.45), paint=sock)
    back = [(0.58, leg + 0.2), (0.45, leg + 0.42), (0.05, leg + 0.36), (-0.42, leg + 0.42), (-0.54, leg + 0.22)]
    trunk = smooth((-0.5, leg - 0.04), (-0.2, leg + 0.03), (0.15, leg), (0.5, leg - 0.05), *back)
    tail = smooth((-0.4, leg + 0.3), (-0.62, leg + 0.52), (-0.74, leg + 0.5), (-0.64, leg + 0.38), (-0.48, leg + 0.16))
    figure.add(trunk, tail, paint=hide)
    face = coat(rng, hue=(0.0, 0.16), val=(0.5, 1.0), patterns=("plain", "mottled", "stripes"))
    skull, muzzle = ellipse(0.56, leg + 0.46, 0.22, 0.2), ellipse(0.74, leg + 0.38, 0.14, 0.1)
    head = figure.add(skull, muzzle, paint=face)
    figure.stroke(head, smooth((0.34, leg + 0.76), (0.32, leg + 0.42), (0.52, leg + 0.5)), paint=sock)
    figure.stroke(head, ellipse(0.86, leg + 0.41, 0.035, 0.035), paint=plain(rng, *DARK))
    figure.stroke(head, ellipse(0.63, leg + 0.5, 0.05, 0.06), paint=plain(rng, *DARK))
    return figure


def owl(rng: np.random.Generator) -> Figure:
    """Body with a belly, head with two eyes and a beak; front view."""
    figure, wings = Figure(), coat(rng, val=(0.4, 0.85))
    body = figure.add(ellipse(0, 0.34, 0.36, 0.36, square=0.85), paint=wings)
    figure.add(ellipse(0, 0.28, 0.22, 0.25), paint=coat(rng, val=(0.6, 1.0)), parent=body)
    hood = coat(rng, val=(0.4, 0.9), patterns=("plain", "mottled"))
    ears = [smooth((s * 0.3, 1.02), (s * 0.32, 0.7), (s * 0.06, 0.86)) for s in (-1, 1)]
    head = figure.add(ellipse(0, 0.74, 0.33, 0.23, square=0.85), *ears, paint=hood)
    white, pupil = plain(rng, (0.1, 0.18), (0.05, 0.6), (0.85, 1.0)), plain(rng, *DARK)
    for side in (-1, 1):
        eye = figure.add(ellipse(side * 0.15, 0.76, 0.125, 0.125), paint=white, parent=head)
        figure.stroke(eye, ellipse(side * 0.14, 0.76, 0.06, 0.065), paint=pupil)
    beak = plain(rng, (0.07, 0.13), (0.7, 0.9), (0.8, 1.0))
    figure.stroke(head, smooth((-0.06, 0.7), (0.06, 0.7), (0, 0.54)), paint=beak)
    return figure


def house(rng: np.random.Generator) -> Figure:
    """Wall with a door and windows, roof with a chimney."""
    figure, half, eaves = Figure(), rng.uniform(0.4, 0.55), rng.uniform(0.5, 0.6)
    tiles = coat(rng, hue=(-0.04, 0.1), sat=(0.4, 0.8), val=(0.35, 0.75), gloss=0.5)
    wall = figure.add(
        box(-half, 0, half, eaves + 0.03, square=0.05), paint=coat(rng, sat=(0.1, 0.5), val=(0.6, 0.95), gloss=0.4)
    )
    door = figure.add(
        box(-0.11, 0, 0.11, 0.34, square=0.15), paint=coat(rng, patterns=("plain", "stripes"), gloss=0.5), parent=wall
    )
    figure.stroke(door, ellipse(0.06, 0.16, 0.022, 0.022), paint=plain(rng, (0.1, 0.16), (0.5, 0.8), (0.8, 1)))
    pane = plain(rng, *GLASS)
    for x in (-0.62 * half, 0.62 * half):
        figure.add(box(x - 0.1, 0.22, x + 0.1, 0.43, square=0.1), paint=pane, parent=wall)
    roof_paint = coat(
        rng, hue=(-0.04, 0.1), sat=(0.3, 0.8), val=(0.3, 0.7), patterns=("plain", "stripes", "checks"), gloss=0.5
    )
    gable = np.array([(-half - 0.1, eaves), (half + 0.1, eaves), (half * 0.55, 0.9), (-half * 0.55, 0.9)])
    roof = figure.part()
    figure.add(box(0.2, 0.7, 0.32, 1.0, square=0.1), paint=tiles, parent=roof)  # painted first: it is behind the roof
    figure.stroke(roof, gable, paint=roof_paint)
    return figure


def car(rng: np.random.Generator) -> Figure:
    """Body with windows, two wheels with hubs."""
    figure, lacquer = (
        Figure(),
        coat(rng, sat=(0.5, 0.95), val=(0.5, 0.95), patterns=("plain", "plain", "stripes", "checks")),
    )
    nose = rng.uniform(0.28, 0.42)
    hull = smooth(
        (-0.95, 0.12), (0.98, 0.12), (0.98, 0.4), (0.6, 0.46), (nose, 0.8), (-0.5, 0.82), (-0.74, 0.46), (-0.98, 0.44)
    )
    body = figure.add(hull, paint=lacquer)
    pane = plain(rng, *GLASS)
    figure.add(smooth((-0.62, 0.48), (-0.04, 0.48), (-0.04, 0.74), (-0.46, 0.74)), paint=pane, parent=body)
    figure.add(smooth((0.04, 0.48), (nose + 0.14, 0.48), (nose - 0.04, 0.74), (0.04, 0.74)), paint=pane, parent=body)
    tyre, rim = plain(rng, *DARK), coat(rng, sat=(0.0, 0.3), val=(0.65, 1.0), patterns=("plain", "checks"))
    for x in (-0.55, 0.57):
        wheel = figure.add(ellipse(x, 0.17, 0.2, 0.2), paint=tyre)
        figure.add(ellipse(x, 0.17, 0.1, 0.1), paint=rim, parent=wheel)
    return figure


def tree(rng: np.random.Generator) -> Figure:
    """Trunk, crown with fruits."""
    figure, wide = Figure(), rng.uniform(0.05, 0.08)
    bark = coat(rng, hue=WOOD[0], sat=WOOD[1], val=WOOD[2], patterns=("plain", "stripes", "mottled"))
    figure.add(
        smooth((-2.2 * wide, 0), (2.2 * wide, 0), (wide, 0.2), (wide, 0.6), (-wide, 0.6), (-wide, 0.2)), paint=bark
    )
    foliage = coat(rng, hue=(0.05, 0.42), sat=LEAF[1], val=LEAF[2], patterns=("mottled", "spots", "plain"))
    crown = figure.add(blob(rng, 0, 0.68, 0.36, 0.31), paint=foliage)
    fruit = plain(rng, (-0.03, 0.14), (0.7, 0.95), (0.75, 1.0))
    for x, y in ((-0.17, 0.62), (0.15, 0.76), (0.07, 0.5))[: rng.integers(0, 4)]:
        figure.add(ellipse(x, y, 0.09, 0.09), paint=fruit, parent=crown)
    return figure


def potted_plant(rng: np.random.Generator) -> Figure:
    """Pot with a rim, leaves, a flower with a heart."""
    figure = Figure()
    green = coat(rng, hue=LEAF[0], sat=LEAF[1], val=LEAF[2], patterns=("plain", "stripes", "mottled"))
    stem = smooth((-0.025, 0.3), (0.025, 0.3), (0.03, 0.8), (-0.02, 0.8))
    figure.add(stem, paint=plain(rng, *LEAF))
    for side in (-1, 1):
        leaf = smooth((0, 0.36), (side * 0.2, 0.4), (side * 0.46, 0.66), (side * 0.36, 0.68), (side * 0.08, 0.58))
        figure.add(leaf, paint=green)
    petals = coat(rng, sat=(0.5, 0.9), val=(0.75, 1.0), patterns=("plain", "mottled"))
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radius = 0.19 + 0.045 * np.cos(rng.integers(5, 8) * t)
    flower = figure.add(np.stack([radius * np.cos(t), 0.82 + radius * np.sin(t)], 1), paint=petals)
    figure.add(ellipse(0, 0.82, 0.09, 0.09), paint=plain(rng, (0.08, 0.16), (0.6, 0.9), (0.6, 1.0)), parent=flower)
    clay = coat(rng, hue=(-0.02, 0.12), val=(0.5, 0.9))
    pot = figure.add(smooth((-0.19, 0), (0.19, 0), (0.19, 0), (0.28, 0.36), (-0.28, 0.36), (-0.19, 0)), paint=clay)
    rim = coat(rng, hue=(-0.02, 0.12), val=(0.4, 0.95), patterns=("plain",))
    figure.stroke(pot, box(-0.29, 0.28, 0.29, 0.38, square=0.3), paint=rim)
    return figure


def mug(rng: np.random.Generator) -> Figure:
    """Body with a badge and a dark mouth, handle."""
    figure, half = Figure(), rng.uniform(0.32, 0.42)
    glaze = coat(rng, val=(0.5, 1.0))
    arc = np.linspace(-0.55 * np.pi, 0.55 * np.pi, 24)
    ring = [
        (half + r * 1.05 * np.cos(t), 0.46 + r * np.sin(t)) for r, ts in ((0.28, arc), (0.17, arc[::-1])) for t in ts
    ]
    figure.add(np.array(ring), paint=coat(rng, val=(0.4, 0.9), patterns=("plain",)))
    cup = figure.add(box(-half, 0, half, 0.88, square=0.22), paint=glaze)
    figure.stroke(cup, ellipse(0, 0.84, half * 0.93, 0.09), paint=plain(rng, (0.0, 0.12), (0.3, 0.7), (0.15, 0.4)))
    badge = coat(rng, sat=(0.4, 0.9), val=(0.5, 1.0), patterns=("plain", "stripes"))
    figure.add(blob(rng, -0.04, 0.4, half * 0.45, 0.17, lumps=0.03), paint=badge, parent=cup)
    return figure


def bottle(rng: np.random.Generator) -> Figure:
    """Flask with a label, cap."""
    figure, half = Figure(), rng.uniform(0.17, 0.23)
    glass = coat(rng, sat=(0.3, 0.9), val=(0.3, 0.8), patterns=("plain", "plain", "mottled", "stripes"))
    neck = [(half, 0.55), (0.075, 0.7), (0.075, 0.92), (-0.075, 0.92), (-0.075, 0.7), (-half, 0.55)]
    silhouette = smooth((-half, 0), (-half, 0), (half, 0), (half, 0), *neck)
    flask = figure.add(silhouette, paint=glass)
    paper = coat(rng, sat=(0.1, 0.6), val=(0.7, 1.0))
    figure.add(box(-half * 0.97, 0.16, half * 0.97, 0.44, square=0.12), paint=paper, parent=flask)
    figure.add(box(-0.095, 0.86, 0.095, 1.0, square=0.25), paint=plain(rng, (0, 1), (0.3, 0.9), (0.3, 0.9)))
    return figure


def lamp(rng: np.random.Generator) -> Figure:
    """Foot, pole, shade with a hem."""
    figure, metal = Figure(), plain(rng, (0.05, 0.15), (0.1, 0.6), (0.3, 0.8))
    figure.add(box(-0.03, 0.05, 0.03, 0.62, square=0.3), paint=metal)
    foot = coat(rng, val=(0.3, 0.8), patterns=("plain", "mottled"))
    figure.add(smooth((-0.26, 0), (0.26, 0), (0.26, 0.06), (0.06, 0.16), (-0.06, 0.16), (-0.26, 0.06)), paint=foot)
    cone = np.array([(-0.4, 0.55), (0.4, 0.55), (0.2, 1.0), (-0.2, 1.0)])
    shade = figure.add(cone, paint=coat(rng, sat=(0.1, 0.7), val=(0.75, 1.0)))
    figure.add(box(-0.41, 0.53, 0.41, 0.62, square=0.15), paint=coat(rng, patterns=("plain",)), parent=shade)
    return figure


def mushroom(rng: np.random.Generator) -> Figure:
    """Stem, cap with two large spots."""
    figure = Figure()
    figure.add(
        smooth((-0.18, 0), (0.18, 0), (0.12, 0.55), (-0.12, 0.55)), paint=coat(rng, sat=(0.05, 0.3), val=(0.75, 1.0))
    )
    skin = coat(rng, hue=(-0.06, 0.12), sat=(0.5, 0.9), val=(0.5, 0.95), patterns=("plain", "mottled", "stripes"))
    cap = figure.add(smooth((-0.5, 0.44), (0.5, 0.44), (0.44, 0.86), (0, 1.1), (-0.44, 0.86)), paint=skin)
    dot = plain(rng, (0.1, 0.16), (0.0, 0.3), (0.85, 1.0))
    for x, y, r in ((-0.2, 0.68, 0.11), (0.14, 0.76, 0.1)):
        figure.add(ellipse(x, y, r * 1.1, r), paint=dot, parent=cap)
    return figure


def balloon(rng: np.random.Generator) -> Figure:
    """Envelope with a band, basket on ropes; floats in the air."""
    figure = Figure()
    rope = plain(rng, *WOOD)
    figure.add(np.array([(-0.16, 0.36), (0.16, 0.36), (0.08, 0.14), (-0.08, 0.14)]), paint=rope)
    figure.add(
        box(-0.11, 0, 0.11, 0.17, square=0.2),
        paint=coat(rng, hue=WOOD[0], val=(0.4, 0.7), patterns=("checks", "plain")),
    )
    silk = smooth((-0.1, 0.3), (0.1, 0.3), (0.42, 0.6), (0.44, 0.9), (0.0, 1.12), (-0.44, 0.9), (-0.42, 0.6))
    envelope = figure.add(silk, paint=coat(rng, sat=(0.5, 0.95), val=(0.6, 1.0)))
    band = smooth(
        (-0.39, 0.66), (-0.2, 0.61), (0.2, 0.61), (0.39, 0.66), (0.405, 0.78), (0.2, 0.74), (-0.2, 0.74), (-0.405, 0.78)
    )
    figure.add(band, paint=coat(rng, sat=(0.4, 0.95), val=(0.6, 1.0), patterns=("plain", "checks")), parent=envelope)
    return figure


Family = Callable[[np.random.Generator], Figure]
OUTDOORS: tuple[Family, ...] = (quadruped, house, car, tree, mushroom, owl)
INDOORS: tuple[Family, ...] = (potted_plant, mug, bottle, lamp, quadruped, owl)
AIRBORNE: tuple[Family, ...] = (balloon,)
