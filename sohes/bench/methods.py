"""`sohes bench methods`: phase 1 beside its peers, AR and CPU seconds in one run."""

from __future__ import annotations

from pathlib import Path

from sohes.data.benchmarks.catalogue import read_photographs
from sohes.evaluate.methods import METHODS, compare_settings
from sohes.evaluate.recall import paired_bootstrap
from sohes.explore.maps import make_extractor
from sohes.params import load_params
from sohes.project import Project

BACKBONE, PARAMS = Project(Path()).model("backbone"), Project(Path()).params


def bench_methods(
    root: Path,
    benchmark: str = "coco_panoptic",
    images: int = 10,
    methods: str = ",".join(METHODS),
    params: Path = PARAMS,
    backbone: Path = BACKBONE,
) -> dict[str, str | dict[str, dict[str, float | None]]]:
    """Score `methods` on the first `images` of a benchmark unpacked in `root`, with `params`' features and refiner.

    Keys name, and methods: for each of these `AR`, `AR_S`, `AR_M`, `AR_L`, `masks_per_image`, `cpu_seconds` an image,
    and `gain` of the first method over it with its 95 % interval (`gain_low`, `gain_high`), in points of AR.
    """
    explore = load_params(params).explore
    names = methods.split(",")
    extract = make_extractor(explore, backbone)
    settings = {name: (extract, explore.model_copy(update={"method": name})) for name in names}
    results = compare_settings(read_photographs(benchmark, root, images), settings)
    first = results[names[0]].scores
    rows: dict[str, dict[str, float | None]] = {}
    for name, outcome in results.items():
        scores = outcome.scores
        gain, low, high = paired_bootstrap(first.per_image, scores.per_image)
        figures = {"AR": scores.AR, "AR_S": scores.AR_S, "AR_M": scores.AR_M, "AR_L": scores.AR_L}
        figures |= {"masks_per_image": scores.masks_per_image, "cpu_seconds": outcome.cpu_seconds}
        figures |= {"gain": gain, "gain_low": low, "gain_high": high}
        rows[name] = {key: None if value is None else round(value, 3) for key, value in figures.items()}
    return {"name": "methods", "methods": rows}
