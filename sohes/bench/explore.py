"""Seconds and memory of phase 1 on one image, step by step."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from sohes.bench.cost import peak_gb
from sohes.bench.own_process import in_own_process
from sohes.bench.places import place_tokens, places_image
from sohes.data.imaging import fit
from sohes.data.scenes.render import render_scene
from sohes.explore.label_image import at_size, label_image, refine
from sohes.explore.label_image import without_duplicates as nms
from sohes.explore.local import Extract, global_regions, local_regions, square
from sohes.explore.maps import make_extractor
from sohes.explore.merge.reference import reference_merge
from sohes.explore.merge.tree import merge_tree
from sohes.explore.refine import make_refiner
from sohes.masks import packed
from sohes.masks.forest import parents_by_coverage
from sohes.params import BackboneParams, ExploreParams, load_params
from sohes.structures import MaskSet

SCENE = 384  # pixels of the scene, which is enlarged to the requested size, as drawing a large one is slow
Features = Literal["handmade", "structured", "vit"]


def bench_explore(
    *,
    params: Path = Path("params.yaml"),
    size: int = 1024,
    features: Features = "handmade",
    dim: int = 768,
    repeats: int = 5,
    reference: bool = False,
) -> dict[str, str | float | int]:
    """Phase 1 as `params` says, on its first feature map, on one image of size x size pixels and one core.

    features: `handmade` features of a scene; `structured`, tokens of `dim` numbers similar to a ViT's
    (`sohes.bench.places`), at no cost; `vit`, the same tokens, but the params' ViT runs too with random weights, on a
    GPU if there is one.
    Keys name, seconds_median, cpu_seconds_median, peak_mb (growth of the process's peak memory), process_mb (the peak),
    images_per_second, masks, crops, rest_cpu_seconds_median (all but the features), rest_share (of all CPU seconds) and
    a median for each step: features (image and crops), global, local, nms, refine, hierarchy, pack.
    reference: also run `reference_merge` on all maps of the image; adds reference_cpu_seconds and ratio to merge_tree.
    """
    values = load_params(params)
    first_map = values.explore.model_copy(update={"also": ()})
    return in_own_process(_measure, size, features, dim, first_map, values.backbone, repeats, reference)


def _measure(
    size: int,
    features: Features,
    dim: int,
    params: ExploreParams,
    backbone: BackboneParams,
    repeats: int,
    reference: bool,
) -> dict[str, str | float | int]:
    cv2.setNumThreads(1)
    image, extract = _subject(size, features, dim, params, backbone)
    quick = params.model_copy(update={"features": "handmade", "image_size": 16 * params.patch_size})
    label_image(render_scene(0, size=64, seed=0).image_HW3, make_extractor(quick, Path()), quick)  # compiles
    timed = Timed(extract)
    before = peak_gb()
    seconds, cpu_seconds, rest = [], [], []
    for _ in range(repeats):
        wall, cpu, timed.cpu_seconds = time.perf_counter(), time.process_time(), 0.0
        found = label_image(image, timed, params)
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
        rest.append(cpu_seconds[-1] - timed.cpu_seconds)
    peak, whole = (peak_gb() - before) * 1000, peak_gb() * 1000
    steps = [label_in_steps(image, extract, params)[1] for _ in range(1 if features == "vit" else repeats)]
    result: dict[str, str | float | int] = {
        "name": f"explore-{size}-{features}",
        "seconds_median": round(statistics.median(seconds), 4),
        "cpu_seconds_median": round(statistics.median(cpu_seconds), 4),
        "peak_mb": round(peak, 1),
        "process_mb": round(whole, 1),
        "images_per_second": round(1 / statistics.median(seconds), 4),
        "masks": len(found),
        "crops": timed.images // repeats - 1,
        "rest_cpu_seconds_median": round(statistics.median(rest), 4),
        "rest_share": round(statistics.median(rest) / statistics.median(cpu_seconds), 5),
        **{f"{step}_seconds": round(statistics.median(s[step] for s in steps), 4) for step in steps[0]},
    }
    return result | (_against_reference(image, extract, params) if reference else {})


def _subject(
    size: int, features: Features, dim: int, params: ExploreParams, backbone: BackboneParams
) -> tuple[np.ndarray, Extract]:
    """The image, and the extractor of its features."""
    if features == "handmade":
        scene = cv2.resize(render_scene(0, size=SCENE, seed=0).image_HW3, (size, size))
        return scene, make_extractor(params.model_copy(update={"features": "handmade"}), Path())
    tokens = place_tokens(dim, patch_size=params.patch_size)
    return places_image(size), tokens if features == "structured" else _after_a_vit(tokens, backbone, amp=params.amp)


def _after_a_vit(tokens: Extract, params: BackboneParams, *, amp: bool) -> Extract:
    """The same tokens, after a ViT with random weights has run on each image: it costs time, its output is ignored."""
    import torch

    from sohes.backbone.build import build_backbone
    from sohes.backbone.vit import extract_features

    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = build_backbone(params.model_copy(update={"pretrained": "train"})).to(device)

    def extract(images: list[np.ndarray]) -> list[np.ndarray]:
        extract_features(backbone, images, amp=amp)
        return tokens(images)

    return extract


class Timed:
    """An extractor that counts its seconds and images."""

    def __init__(self, extract: Extract) -> None:
        self.extract, self.seconds, self.cpu_seconds, self.images = extract, 0.0, 0.0, 0

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        wall, cpu = time.perf_counter(), time.process_time()
        features = self.extract(images)
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.images += len(images)
        return features


def label_in_steps(image_HW3: np.ndarray, extract: Extract, params: ExploreParams) -> tuple[MaskSet, dict[str, float]]:
    """The same as `label_image`, with the seconds of each step; `features` are those of the extractor."""
    timed = Timed(extract)
    spent = {"features": 0.0}
    started = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal started
        now = time.perf_counter()
        spent[step], started = now - started - timed.seconds, now
        spent["features"] += timed.seconds
        timed.seconds = 0.0

    view = fit(image_HW3, params.image_size)
    size, image_hw = view.shape[:2], image_HW3.shape[:2]
    (features,) = timed([square(image_HW3, params.image_size)])
    large, small_boxes = global_regions(features, params, image_hw=image_hw, size=size)
    lap("global")
    local = local_regions(image_HW3, small_boxes, timed, params, size=size)
    lap("local")
    distinct = nms(large + local, nms_iou=params.nms_iou)
    lap("nms")
    refiner = make_refiner(params.refiner, patch=max(size) / max(features.shape[:2]))
    refined = refine(refiner, view, distinct, refine_min_iou=params.refine_min_iou)
    lap("refine")
    parents = parents_by_coverage(packed.intersections(refined.masks), theta_cover=params.theta_cover)
    lap("hierarchy")
    found = at_size(refined, parents, image_hw)
    lap("pack")
    return found, spent


def _against_reference(image_HW3: np.ndarray, extract: Extract, params: ExploreParams) -> dict[str, float]:
    """The merge trees of all maps of one image, by the kernel and by the reference."""
    ours = plain = 0.0

    def both_ways(images: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal ours, plain
        maps = extract(images)
        for features in maps:
            start = time.process_time()
            merge_tree(features)
            ours += time.process_time() - start
            start = time.process_time()
            reference_merge(features)
            plain += time.process_time() - start
        return maps

    label_image(image_HW3, both_ways, params)
    return {"reference_cpu_seconds": round(plain, 4), "ratio": round(plain / ours, 1)}
