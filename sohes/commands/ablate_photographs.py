"""`sohes ablate-photographs`: the steps and switches of phase 1 on annotated photographs, as one page (table 2, 6b).

By default the rows are tried with colour features and with the backbone's; `--table` tries other rows on the params as
they are, such as the feature maps of `params/photographs.yaml`. The page is written after each of its tables. A row
whose refiner is not on this machine is left out, and the page says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import BACKBONE, HERE, ParamsFile
from sohes.data.benchmarks.catalogue import read_photographs
from sohes.data.benchmarks.places import files_of, name_and_folder
from sohes.errors import SohesError
from sohes.evaluate.ablation import load_table
from sohes.evaluate.methods import Outcome, compare_settings
from sohes.evaluate.recall import paired_bootstrap
from sohes.evaluate.relations import relations_changed, relations_per_image, with_coverage
from sohes.evaluate.tables import markdown
from sohes.explore import label_free
from sohes.explore.calibrate import matched_thresholds
from sohes.explore.local import Extract, square, tree_of
from sohes.explore.maps import backbone_taps, make_extractor
from sohes.explore.merge.tree import MergeTree
from sohes.explore.refine import require_refiner, what_it_lacks
from sohes.params import ExploreParams, load_params, validated
from sohes.work.files import write_file
from sohes.work.origin import Origin, code_of

DEFAULT_TABLES, COVERAGE = ("table-2", "improvements"), "table-6b"  # of params/ablations
CALIBRATED_ON = 20  # images
SPEECH = {"handmade": "handmade colour features", "tokens": "features of the small backbone"}
ON_THE_DEFAULTS = (
    ": first the paper's steps, with each threshold alone. `recalibrated` rows use thresholds at which the same share "
    "of merges is done as with handmade features at the profile's thresholds. With a backbone that trained for a "
    "minute, such as the demo's, the rows show what the switches do, not what DINO's features would reach.\n\nThe "
    "dense CRF's weights (`sohes/explore/refine/densecrf.py`) are the best of four by AR on the first 16 photographs "
    "of `coco_panoptic_100`; the stabilities were not tuned.\n"
)

Setting = tuple[Extract, ExploreParams]


def ablate_photographs(
    benchmarks: Annotated[list[str], typer.Argument(help="NAME=DIR: sets that `sohes benchmark-info` knows.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = HERE.reports / "ablations.md",
    images: Annotated[int, typer.Option(min=1, help="Images of each set.")] = 100,
    backbone: Annotated[Path, typer.Option(help="For the rows that are not handmade.")] = BACKBONE,
    params: ParamsFile = HERE.params,
    table: Annotated[
        list[str] | None, typer.Option(help="Of params/ablations: its rows, on the params as they are; repeatable.")
    ] = None,
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
        inputs=[backbone, *chain.from_iterable(map(files_of, places.values()))],
    )
    rows, baseline = _rows_of(table or DEFAULT_TABLES, project)
    options: list[tuple[str, object]] = [("backbone", backbone), ("params", params), ("images", images), ("out", out)]
    options += [("table", one) for one in table or ()]
    given = chain.from_iterable((f"--{name}", str(value)) for name, value in options)
    command = shlex.join(["sohes", "ablate-photographs", *benchmarks, *given])
    parts = [_introduction(command, images, table or DEFAULT_TABLES, baseline)]
    for name, folder in places.items():
        for features in [None] if table else SPEECH:
            settings, notes = _settings(features, rows, explore, backbone, baseline)
            if features not in (None, "handmade"):
                notes += _recalibrated(settings, explore, backbone, baseline, (name, folder, images))
            outcomes = compare_settings(read_photographs(name, folder, images), settings)
            title = f"{name}, {SPEECH[features]}" if features else name
            part = f"## {title}\n\n{_rows(outcomes, settings, backbone, baseline)}\n"
            part += "".join(f"{note}\n\n" for note in notes)
            part += f"Relations by `theta_cover` (table 6b), for the masks of `{baseline}`:\n\n"
            part += f"{_relations(outcomes[baseline], project)}\n"
            origin.check()
            parts.append(part)
            write_file(out, "\n".join(parts).rstrip() + "\n")
            print(part, flush=True)


def _rows_of(tables: Sequence[str], project: Path) -> tuple[dict[str, dict[str, object]], str]:
    """What the rows of all tables set, by name, and the one that sets nothing, which the others are compared with."""
    rows = {name: row.set for table in tables for name, row in load_table(table, project).rows.items()}
    unchanged = [name for name, changes in rows.items() if not changes]
    if not unchanged:
        raise SohesError(
            f"every row of {', '.join(tables)} sets something: add one that does not, to compare them with"
        )
    return rows, unchanged[0]


def _introduction(command: str, images: int, tables: Sequence[str], baseline: str) -> str:
    files = " and ".join(f"`params/ablations/{table}.yaml`" for table in tables)
    named = "" if tables == DEFAULT_TABLES else f": {' and '.join(tables)}"
    page = (
        f"# Phase 1 on photographs{named}\n\n"
        f"Made by `{command}`: the first {images} annotated photographs of each set, one process, one run per table."
        "\n\nAR is class-agnostic, up to 1,000 masks, in percent; seconds are CPU seconds per image, including "
        f"features. Differences in AR are from `{baseline}`, the unchanged params, with a 95 % interval (paired "
        f"bootstrap over images). The rows are those of {files}"
    )
    return page + (ON_THE_DEFAULTS if tables == DEFAULT_TABLES else ".\n")


# ---------------------------------------------------------------- rows


def _settings(
    features: str | None, rows: Mapping[str, Mapping[str, object]], base: ExploreParams, backbone: Path, baseline: str
) -> tuple[dict[str, Setting], list[str]]:
    """Each row's extractor and params, and sentences about those left out. features: None for those of `base`."""
    if features is not None:
        base = base.model_copy(update={"features": features, "block": -1})
    extractors: dict[object, Extract] = {}
    settings: dict[str, Setting] = {}
    notes: list[str] = []
    for name, changes in rows.items():
        params = changed(base, changes)
        if features == "handmade" and params.features != features:
            continue
        if name != baseline and any(params == other for _, other in settings.values()):
            continue  # two tables may name the same, and a row may set what the params say anyway
        if reason := what_it_lacks(params.refiner):
            notes.append(f"Left out, `{name}`: {reason}.")
            continue
        needed = tuple(backbone_taps(params)) or params.patch_size
        if needed not in extractors:
            extractors[needed] = make_extractor(params, backbone)
        settings[name] = extractors[needed], params
    return settings, notes


def _recalibrated(
    settings: dict[str, Setting], explore: ExploreParams, backbone: Path, baseline: str, where: tuple[str, Path, int]
) -> list[str]:
    """Adds a row for each of the backbone's features, with thresholds that fit it, and says in sentences which."""
    handmade = explore.model_copy(update={"features": "handmade", "block": -1})
    known = _trees(make_extractor(handmade, backbone), handmade, where)
    notes = []
    for name, (extract, params) in list(settings.items()):
        if name == baseline or (params.features, params.block) != ("tokens", -1):
            thetas = matched_thresholds(explore.theta_merge, known, _trees(extract, params, where))
            label = f"{'tokens' if name == baseline else name}, recalibrated"
            settings[label] = extract, params.model_copy(update={"theta_merge": thetas})
            notes.append(f"Thresholds of `{label}`: {', '.join(f'{theta:g}' for theta in thetas)}.")
    return notes


def changed(base: ExploreParams, changes: Mapping[str, object]) -> ExploreParams:
    """The params with the keys that a row sets. SohesError for one that is not phase 1's."""
    other = [key for key in changes if not key.startswith("explore.")]
    if other:
        raise SohesError(f"the row sets {other[0]}, which is none of phase 1's params: leave it to `sohes ablate`")
    values = {key.removeprefix("explore."): value for key, value in changes.items()}
    return validated(ExploreParams, base.model_dump() | values, f"the row that sets {', '.join(changes)}")


def _trees(extract: Extract, params: ExploreParams, where: tuple[str, Path, int]) -> list[MergeTree]:
    name, folder, images = where
    photographs = read_photographs(name, folder, min(images, CALIBRATED_ON))
    maps = chain.from_iterable(extract([square(image, params.image_size)]) for _, image in photographs)
    return [tree_of(features, params) for features in maps]


# ---------------------------------------------------------------- tables


def _rows(outcomes: Mapping[str, Outcome], settings: Mapping[str, Setting], backbone: Path, baseline: str) -> str:
    header = ["setting", "AR", "S", "M", "L", "masks/img", "CPU s/img", "difference in AR", "label-free"]
    body = []
    for name, outcome in outcomes.items():
        scores = outcome.scores
        figures = (scores.AR, scores.AR_S, scores.AR_M, scores.AR_L, scores.masks_per_image)
        gain, low, high = paired_bootstrap(scores.per_image, outcomes[baseline].scores.per_image)
        difference = "" if name == baseline else f"{gain:+.1f} ({low:+.1f} to {high:+.1f})"
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
        changed = "-" if percent is None else f"{percent:.1f}"
        body.append([f"{theta:g}", f"{relations_per_image(forests[row]):.1f}", changed, f"{paper:g}"])
    return markdown(["theta_cover", "relations/img", "changed, %", "paper, %"], body)
