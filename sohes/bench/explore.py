"""Seconds and memory of phase 1 on one image, step by step."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from sohes.bench.memory import peak_gb
from sohes.data.scenes import render_scene
from sohes.explore.label_image import at_size, fit, label_image, make_extractor, parents_by_coverage, refine
from sohes.explore.label_image import without_duplicates as nms
from sohes.explore.local import Extract, global_regions, local_regions, square
from sohes.explore.refine import make_refiner
from sohes.params import ExploreParams, load_params
from sohes.structures import MaskSet

SCENE = 384  # pixels of the scene that is enlarged to the size asked for: drawing a large one takes long


def bench_explore(
    *, params: Path = Path("params.yaml"), size: int = 1024, repeats: int = 5
) -> dict[str, str | float | int]:
    """Phase 1 as `params` says, but with handmade features, on a scene of size x size pixels and one core.

    Keys name, seconds_median, cpu_seconds_median, peak_mb, masks, and a median for each step, which add up to about
    the whole: features (of the image), global, local (features of the crops included), nms, refine, hierarchy, pack.
    peak_mb: by how much the memory of the process, one of its own, grows over the image itself.
    """
    explore = load_params(params).explore.model_copy(update={"features": "handmade"})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        image = cv2.resize(render_scene(0, size=SCENE, seed=0).image_HW3, (size, size))
        return pool.submit(_measure, image, explore, repeats).result()


def _measure(image: np.ndarray, params: ExploreParams, repeats: int) -> dict[str, str | float | int]:
    cv2.setNumThreads(1)
    extract = make_extractor(params, Path())
    label_image(image[::16, ::16], extract, params)  # compiles what is to be compiled
    before = peak_gb()
    seconds, cpu_seconds, steps = [], [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        label_image(image, extract, params)
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    peak = (peak_gb() - before) * 1000
    for _ in range(repeats):
        found, spent = label_in_steps(image, extract, params)
        steps.append(spent)
    return {
        "name": f"explore-{len(image)}",
        "seconds_median": round(statistics.median(seconds), 4),
        "cpu_seconds_median": round(statistics.median(cpu_seconds), 4),
        "peak_mb": round(peak, 1),
        "masks": len(found),
        **{f"{step}_seconds": round(statistics.median(s[step] for s in steps), 4) for step in steps[0]},
    }


def label_in_steps(image_HW3: np.ndarray, extract: Extract, params: ExploreParams) -> tuple[MaskSet, dict[str, float]]:
    """What `label_image` does, and the seconds that each of its steps took."""
    spent: dict[str, float] = {}
    started = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal started
        now = time.perf_counter()
        spent[step], started = now - started, now

    view = fit(image_HW3, params.image_size)
    size, image_hw = view.shape[:2], image_HW3.shape[:2]
    (features,) = extract([square(image_HW3, params.image_size)])
    lap("features")
    large, small_boxes = global_regions(features, params, image_hw=image_hw, size=size)
    lap("global")
    local = local_regions(image_HW3, small_boxes, extract, params, size=size)
    lap("local")
    distinct = nms(large + local, nms_iou=params.nms_iou)
    lap("nms")
    refiner = make_refiner(params.refiner, patch=max(size) / max(features.shape[:2]))
    refined = refine(refiner, view, distinct, refine_min_iou=params.refine_min_iou)
    lap("refine")
    parents = parents_by_coverage(refined.masks_NHW, theta_cover=params.theta_cover)
    lap("hierarchy")
    found = at_size(refined, parents, image_hw)
    lap("pack")
    return found, spent
