"""Make the pictures of README.md and docs/: python -m infra.docs.pictures PROJECT, after `make demo` in that folder.

The photographs come with scikit-image and are in the public domain; the scenes are the demo's held-out ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import sohes
from sohes.data.imaging import encode_webp
from sohes.evaluate import examples, pictures, plots
from sohes.evaluate.figures import read_details
from sohes.explore.label_image import label_image
from sohes.explore.local import Extract, square
from sohes.explore.maps import make_extractor
from sohes.explore.merge.tree import merge_tree, regions_at_thresholds
from sohes.params import Params, load_params, profiles
from sohes.project import Project
from sohes.structures import MaskSet
from sohes.train.threshold import theta_score
from sohes.work.files import atomic_path

FOLDER = Path(__file__).parents[2] / "docs/pictures"
LEVELS = ("photograph", "whole entities", "parts", "subparts")
GAP = 8


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.docs.pictures", description=__doc__)
    parser.add_argument("project", type=Path, help="a folder in which `make demo` has run")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    project = Project(options.project)
    params = load_params(project.params)
    extract = make_extractor(params.explore, project.model("backbone"))
    drawn = {
        "result.webp": result(params, extract),
        "gallery.webp": gallery(params, extract),
        "steps.webp": steps(photographs()["cup"], extract, params),
        "phases.webp": phases(project, params, count=3),
    }
    for name, picture in drawn.items():
        _write(options.out / name, _webp(picture))
    _write(options.out / "threshold.svg", threshold().encode())


def photographs() -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 RGB of scikit-image's photographs of a woman, a cat and a cup."""
    from skimage import data

    return {"woman": data.astronaut(), "cat": data.chelsea(), "cup": data.coffee()}


def result(params: Params, extract: Extract, *, width: int = 300) -> np.ndarray:
    """Whole entities, parts and subparts that phase 1 finds in two photographs."""
    photos = photographs()
    rows = [
        levels(photos[name], pictures.strongest(label_image(photos[name], extract, params.explore)), width=width)
        for name in ("woman", "cat")
    ]
    return _stack([header(LEVELS, width=width), *rows])


def gallery(params: Params, extract: Extract, *, width: int = 300) -> np.ndarray:
    """Photographs, what phase 1 finds in them, and what the released model does."""
    model, rows = sohes.load("small"), [header(("photograph", "phase 1", "the small model"), width=width)]
    for photo in (photographs()[name] for name in ("cup", "cat")):
        found = label_image(photo, extract, params.explore), model.segment(photo).found
        drawn = [photo, *(pictures.overlay(photo, pictures.strongest(one)) for one in found)]
        rows.append(pictures.side_by_side([pictures.of_width(panel, width) for panel in drawn], gap=GAP))
    return _stack(rows)


def levels(image_HW3: np.ndarray, found: MaskSet, *, width: int) -> np.ndarray:
    """The photograph and three levels of its forest in a row, each `width` pixels wide."""
    drawn = [image_HW3, *(pictures.overlay(image_HW3, found, level=level) for level in range(3))]
    return pictures.side_by_side([pictures.of_width(panel, width) for panel in drawn], gap=GAP)


def steps(image_HW3: np.ndarray, extract: Extract, params: Params, *, width: int = 300) -> np.ndarray:
    """Phase 1 step by step: regions at three thresholds, candidates, refined masks and the roots of the forest."""
    explore = params.explore
    (features,) = extract([square(image_HW3, explore.image_size)])
    tree = merge_tree(features)
    shown = (0.6, 0.3, 0.1)
    panels, words = [image_HW3], ["photograph"]
    for theta, nodes in zip(shown, regions_at_thresholds(tree, shown), strict=True):
        panels.append(_partition(image_HW3, tree, nodes))
        words.append(f"{len(nodes)} regions at {theta}")
    rough = explore.model_copy(update={"refiner": "none"})
    for name, settings in (
        ("first look", rough.model_copy(update={"theta_small": 0.0})),
        ("with closer looks", rough),
        ("refined", explore),
    ):
        found = label_image(image_HW3, extract, settings)
        panels.append(pictures.overlay(image_HW3, found))
        words.append(f"{name}: {len(found)} masks")
    panels.append(pictures.overlay(image_HW3, found, level=0))
    words.append(f"{int((found.parents < 0).sum())} whole entities")
    small = [pictures.of_width(panel, width) for panel in panels]
    rows = []
    for start in (0, 4):
        rows += [
            header(words[start : start + 4], width=width),
            pictures.side_by_side(small[start : start + 4], gap=GAP),
        ]
    return _stack(rows)


def phases(project: Project, params: Params, *, count: int, width: int = 220) -> np.ndarray:
    """Held-out scenes, from best to worst: the scene, its true masks, and what recall counts of each phase."""
    rows = []
    for example in examples.examples(project, read_details(project), count):
        panels = examples.given(example) + examples.matched(example, max_masks=params.evaluate.max_masks)
        drawn = [pictures.of_width(panel.image, width) for panel in panels]
        words = [panel.caption for panel in panels]
        rows += [header(words, width=width), pictures.side_by_side(drawn, gap=GAP)]
    return _stack(rows)


def threshold() -> str:
    """The score that a teacher's mask needs in the paper, plotted against its area, as SVG."""
    correct = load_params(profiles()["paper"]).correct
    areas = np.geomspace(1e-5, 1, 200)
    needed = theta_score(
        areas,
        theta_score_small=correct.theta_score_small,
        theta_score_large=correct.theta_score_large,
        gamma=correct.gamma,
    )
    return plots.score_threshold(areas.tolist(), needed.tolist())


def header(words: Sequence[str], *, width: int, height: int = 30) -> np.ndarray:
    """(height, W, 3) uint8: a title centred above each column."""
    strip = Image.new("RGB", (len(words) * (width + GAP) - GAP, height), "white")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(16)
    for column, word in enumerate(words):
        draw.text((column * (width + GAP) + width / 2, height / 2), word, fill="#333a44", font=font, anchor="mm")
    return np.asarray(strip)


def _partition(image_HW3: np.ndarray, tree, nodes: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: each region in its mean colour, with white lines between regions."""
    region_n = np.empty(tree.num_leaves, np.int32)
    for k, node in enumerate(nodes):
        region_n[tree.order_n[tree.start_K[node] : tree.start_K[node] + tree.area_K[node]]] = k
    height, width = image_HW3.shape[:2]
    region_HW = cv2.resize(
        region_n.reshape(tree.height, tree.width), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    sums = np.stack([np.bincount(region_HW.ravel(), image_HW3[..., c].ravel(), len(nodes)) for c in range(3)], 1)
    counts = np.bincount(region_HW.ravel(), minlength=len(nodes)).clip(1)
    drawn = (sums / counts[:, None]).round().astype(np.uint8)[region_HW]
    edge = np.zeros((height, width), bool)
    edge[1:] |= region_HW[1:] != region_HW[:-1]
    edge[:, 1:] |= region_HW[:, 1:] != region_HW[:, :-1]
    drawn[edge] = 255
    return drawn


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    spacer = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for row in rows for part in (row, spacer)][:-1])


def _webp(image_HW3: np.ndarray) -> bytes:
    return encode_webp(image_HW3, quality=74, method=6)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    print(f"wrote {path} ({len(content) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
