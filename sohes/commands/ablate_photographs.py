"""`sohes ablate-photographs`: the steps and switches of phase 1 on annotated photographs, as one page (table 2, 6b).

The page is written after each of its tables. A row whose refiner is not on this machine is left out, and the page says
so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import BACKBONE, HERE, ParamsFile
from sohes.data.benchmarks.catalogue import read_photographs
from sohes.data.benchmarks.places import name_and_folder
from sohes.errors import SohesError
from sohes.evaluate.ablation import load_table
from sohes.evaluate.methods import Outcome, compare_settings
from sohes.evaluate.recall import paired_bootstrap
from sohes.evaluate.relations import relations_changed, relations_per_image, with_coverage
from sohes.evaluate.tables import markdown
from sohes.explore import label_free
from sohes.explore.calibrate import matched_thresholds
from sohes.explore.local import Extract, square, tree_of
from sohes.explore.maps import make_extractor
from sohes.explore.merge.tree import MergeTree
from sohes.explore.refine import require_refiner, what_it_lacks
from sohes.params import ExploreParams, load_params
from sohes.work.files import write_file
from sohes.work.origin import Origin, code_of

STEPS, SWITCHES, COVERAGE = "table-2", "improvements", "table-6b"  # of params/ablations
BASELINE = "refined"  # the params as they are
CALIBRATED_ON = 20  # images
SPEECH = {"handmade": "handmade colour features", "tokens": "features of the small backbone"}

Setting = tuple[Extract, ExploreParams]


def ablate_photographs(
    benchmarks: Annotated[list[str], typer.Argument(help="NAME=DIR: sets that `sohes benchmark-info` knows.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = HERE.reports / "ablations.md",
    images: Annotated[int, typer.Option(min=1, help="Images of each set.")] = 100,
    backbone: Annotated[Path, typer.Option(help="For the rows that are not handmade.")] = BACKBONE,
    params: ParamsFile = HERE.params,
) -> None:
    """Every step and switch of phase 1 on photographs.

    Annotated ones: tables 2 and 6b, as one page.

    Example: sohes ablate-photographs coco_panoptic=~/coco bsds500=~/bsds500
    """
    project = Path.cwd()
    values = load_params(params)
    explore = values.explore
    require_refiner(explore.refiner)  # other rows are left out without theirs, but not the baseline
    places = dict(map(name_and_folder, benchmarks))
    if not backbone.exists():
        raise SohesError(f"no backbone at {backbone}: run `sohes backbone` first, or name one with --backbone")
    origin = Origin(
        "ablate-photographs",
        values,
        params,
        sections=("explore",),
        load=load_params,
        code=code_of("sohes.commands.ablate_photographs"),
        inputs=[backbone, *places.values()],
    )
    options = {"backbone": backbone, "params": params, "images": images, "out": out}
    given = chain.from_iterable((f"--{name}", str(value)) for name, value in options.items())
    parts = [_introduction(shlex.join(["sohes", "ablate-photographs", *benchmarks, *given]), images)]
    for name, folder in places.items():
        for features in SPEECH:
            settings, notes = _settings(features, explore, project, backbone, (name, folder, images))
            outcomes = compare_settings(read_photographs(name, folder, images), settings)
            part = f"## {name}, {SPEECH[features]}\n\n{_rows(outcomes, settings, backbone)}\n"
            part += "".join(f"{note}\n\n" for note in notes)
            part += f"Relations by `theta_cover` (table 6b), for the masks of `{BASELINE}`:\n\n"
            part += f"{_relations(outcomes[BASELINE], project)}\n"
            origin.check()
            parts.append(part)
            write_file(out, "\n".join(parts).rstrip() + "\n")
            print(part, flush=True)


def _introduction(command: str, images: int) -> str:
    return (
        "# Phase 1 on photographs\n\n"
        f"Made by `{command}`: the first {images} annotated photographs of each set, one process, one run per table."
        "\n\nAR is class-agnostic, up to 1,000 masks, in percent; seconds are CPU seconds per image, including "
        f"features. Differences in AR are from `{BASELINE}`, the unchanged params, with a 95 % interval (paired "
        "bootstrap over images). The rows are those of `params/ablations/table-2.yaml` and `improvements.yaml`: first "
        "the paper's steps, with each threshold alone. `recalibrated` rows use thresholds at which the same share of "
        "merges is done as with handmade features at the profile's thresholds. With a backbone that trained for a "
        "minute, such as the demo's, the rows show what the switches do, not what DINO's features would reach.\n\n"
        "The dense CRF's weights (`sohes/explore/refine/densecrf.py`) are the best of four by AR on the first 16 "
        "photographs of `coco_panoptic_100`; the stabilities were not tuned. With `theta_cover` 1 nothing is an "
        "ancestor, because coverage must exceed it.\n"
    )


# ---------------------------------------------------------------- rows


def _settings(
    features: str, base: ExploreParams, project: Path, backbone: Path, where: tuple[str, Path, int]
) -> tuple[dict[str, Setting], list[str]]:
    """Each row's extractor and params, and sentences about them."""
    base = base.model_copy(update={"features": features, "block": -1})
    rows = {**load_table(STEPS, project).rows, **load_table(SWITCHES, project).rows}
    extractors: dict[tuple[str, int], Extract] = {}
    settings: dict[str, Setting] = {}
    notes: list[str] = []

    def add(name: str, params: ExploreParams) -> None:
        kind = (params.features, params.block)
        if features == "handmade" and params.features != features:
            return
        if name != BASELINE and any(params == other for _, other in settings.values()):
            return  # two tables may name the same, and a row may set what the params say anyway
        if reason := what_it_lacks(params.refiner):
            notes.append(f"Left out, `{name}`: {reason}.")
            return
        if kind not in extractors:
            extractors[kind] = make_extractor(params, backbone)
        settings[name] = extractors[kind], params

    for name, row in rows.items():
        add(name, changed(base, row.set))
    if features == "handmade":
        return settings, notes
    handmade = base.model_copy(update={"features": "handmade"})
    known = _trees(make_extractor(handmade, backbone), handmade, where)
    for name, (extract, params) in list(settings.items()):
        if name == BASELINE or (params.features, params.block) != (base.features, base.block):
            thetas = matched_thresholds(base.theta_merge, known, _trees(extract, params, where))
            label = "tokens" if name == BASELINE else name
            add(f"{label}, recalibrated", params.model_copy(update={"theta_merge": thetas}))
            notes.append(f"Thresholds of `{label}, recalibrated`: {', '.join(f'{theta:g}' for theta in thetas)}.")
    return settings, notes


def changed(base: ExploreParams, changes: Mapping[str, object]) -> ExploreParams:
    """The params with the keys that a row sets. SohesError for one that is not phase 1's."""
    other = [key for key in changes if not key.startswith("explore.")]
    if other:
        raise SohesError(f"the row sets {other[0]}, which is none of phase 1's params: leave it to `sohes ablate`")
    values = {key.removeprefix("explore."): value for key, value in changes.items()}
    return ExploreParams.model_validate(base.model_dump() | values)


def _trees(extract: Extract, params: ExploreParams, where: tuple[str, Path, int]) -> list[MergeTree]:
    name, folder, images = where
    photographs = read_photographs(name, folder, min(images, CALIBRATED_ON))
    maps = chain.from_iterable(extract([square(image, params.image_size)]) for _, image in photographs)
    return [tree_of(features, params) for features in maps]


# ---------------------------------------------------------------- tables


def _rows(outcomes: Mapping[str, Outcome], settings: Mapping[str, Setting], backbone: Path) -> str:
    header = ["setting", "AR", "S", "M", "L", "masks/img", "CPU s/img", "difference in AR", "label-free"]
    body = []
    for name, outcome in outcomes.items():
        scores = outcome.scores
        figures = (scores.AR, scores.AR_S, scores.AR_M, scores.AR_L, scores.masks_per_image)
        gain, low, high = paired_bootstrap(scores.per_image, outcomes[BASELINE].scores.per_image)
        difference = "" if name == BASELINE else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
        claim = label_free.in_words(label_free.of_labels(settings[name][1], backbone))
        cells = ["-" if figure is None else f"{figure:.1f}" for figure in figures]
        body.append([name, *cells, f"{outcome.cpu_seconds:.3f}", difference, claim])
    return markdown(header, body)


def _relations(outcome: Outcome, project: Path) -> str:
    table = load_table(COVERAGE, project)
    thetas = {row: float(table.rows[row].set["explore.theta_cover"]) for row in table.rows}
    forests = dict(zip(thetas, with_coverage(outcome.records, list(thetas.values())), strict=True))
    body = []
    for row, theta in thetas.items():
        percent = relations_changed(forests[row], forests[table.baseline])
        paper = table.rows[row].paper["relations_changed"]
        body.append([f"{theta:g}", f"{relations_per_image(forests[row]):.1f}", f"{percent:.1f}", f"{paper:g}"])
    return markdown(["theta_cover", "relations/img", "changed, %", "paper, %"], body)
