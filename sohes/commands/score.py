"""`sohes score` and `benchmark-info`: anybody's predictions on a benchmark, beside what was published there.

Of two runs on the same ground truth, the difference in AR gets a 95 % interval.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sohes.data.benchmarks.catalogue import BENCHMARKS, describe, is_published_protocol
from sohes.data.benchmarks.catalogue import benchmark as find_benchmark
from sohes.data.benchmarks.predictions.read import read_predictions
from sohes.errors import SohesError
from sohes.evaluate.published import MAX_MASKS, published_on
from sohes.evaluate.recall import Scores, evaluate_masks, paired_bootstrap, per_image_of
from sohes.evaluate.tables import cell, heading
from sohes.masks import empty_mask_set
from sohes.structures import ImageRecord
from sohes.work.files import write_json

COLUMNS = ("AR", "AR_S", "AR_M", "AR_L", "AP", "AP50", "masks_per_image")
FURTHER = ("AR_1", "AR_10", "AR_100", "AR_whole", "AR_part", "AR_subpart", "ancestor_f1")


def score(
    predictions: Annotated[list[Path], typer.Argument(help="Files or folders of any format of `sohes export`.")],
    benchmark: Annotated[str, typer.Option(help="One of `benchmark-info`.")],
    root: Annotated[Path, typer.Option(help="Folder where it is unpacked.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run's --json.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the row.")] = None,
    max_masks: Annotated[int, typer.Option(min=1, help="Per image.")] = MAX_MASKS,
    missing_as_empty: Annotated[
        bool, typer.Option("--missing-as-empty", help="Count images it lacks as empty.")
    ] = False,
) -> dict[str, object]:
    """Score anybody's predictions.

    AR, AP, sizes, levels, beside the published figures.

    Example: sohes score coco_instances_results.json --benchmark coco --root ~/coco --json cutler.json
    """
    other = None if compare is None else _read_result(compare, benchmark, max_masks)
    truth = list(find_benchmark(benchmark).read_benchmark(root))
    if not any(record.masks.entities for record in truth):
        raise SohesError(f"{root} has nothing of {benchmark} to find, so nothing can be scored: download it again")
    found: Iterable[ImageRecord] = read_predictions(predictions, truth)
    lacking: list[int] = []
    if missing_as_empty:
        found = _with_empty(found, truth, lacking)
    scores = evaluate_masks(truth, found, max_masks=max_masks)
    result: dict[str, object] = {
        "label": label or ", ".join(map(str, predictions)),
        "benchmark": benchmark,
        "max_masks": max_masks,
        "images": len(truth),
        "images_counted_as_empty": len(lacking),
        **scores.details(),
    }
    if json_out is not None:
        write_json(json_out, result)
    _print(result, other, scores, is_published_protocol(benchmark, root))
    return result


def benchmark_info(name: Annotated[str | None, typer.Argument(help="Leave it out to list the names.")] = None) -> None:
    """What a benchmark counts, and where to get it.

    Example: sohes benchmark-info coco
    """
    print(describe(name) if name else "\n".join(BENCHMARKS))


def _with_empty(
    found: Iterable[ImageRecord], truth: Sequence[ImageRecord], lacking: list[int]
) -> Iterator[ImageRecord]:
    """The predictions, then a record without masks for every image that they lack, whose id goes into `lacking`."""
    seen = set()
    for record in found:
        seen.add(record.image_id)
        yield record
    for record in truth:
        if record.image_id not in seen:
            lacking.append(record.image_id)
            masks = empty_mask_set(record.masks.height, record.masks.width)
            yield ImageRecord(record.image_id, record.file_name, "", masks)


def _read_result(path: Path, benchmark: str, max_masks: int) -> dict:
    try:
        result = json.loads(path.read_bytes())
        per_image_of(result)
        on, cap = result["benchmark"], result["max_masks"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise SohesError(f"{path} is no result of `sohes score --json`: write one with it first") from None
    if on != benchmark:
        raise SohesError(f"{path} was scored on {on}, not on {benchmark}: compare runs on the same benchmark")
    if cap != max_masks:
        raise SohesError(
            f"{path} was scored with at most {cap} masks each, not {max_masks}: compare runs with the same --max-masks"
        )
    return result


def _print(result: dict, other: dict | None, scores: Scores, with_published: bool) -> None:
    console = Console(markup=False)  # brackets in names are no markup
    title = f"{result['benchmark']}: {result['images']} images, at most {result['max_masks']} masks each, percent"
    table = Table(title=title)
    table.add_column("predictions", overflow="fold")
    table.add_column("figures")
    for column in COLUMNS:
        table.add_column(heading(column), justify="right")
    table.add_row(str(result["label"]), "measured here", *_cells(result))
    if other is not None:
        table.add_row(str(other["label"]), "measured before", *_cells(other))
    table.add_section()
    rows = published_on(str(result["benchmark"])) if with_published else []
    for row in rows:
        table.add_row(row.method, f"published: {row.source}", *_cells(vars(row)))
    console.print(table)
    further = [f"{name} {result[name]:.1f}" for name in FURTHER if result[name] is not None]
    console.print(f"also measured: {', '.join(further)}", soft_wrap=True, highlight=False)
    if not rows:
        console.print("no published figures on this set", highlight=False)
    elif result["max_masks"] != MAX_MASKS:
        told = (
            f"published figures are for at most {MAX_MASKS} masks each, so those measured here do not compare with them"
        )
        console.print(told, soft_wrap=True, highlight=False)
    if result["images_counted_as_empty"]:
        count = f"{result['images_counted_as_empty']} of {result['images']}"
        console.print(f"{count} images had no prediction and count as empty, which lowers AR", highlight=False)
    if other is not None:
        _print_difference(scores, other, console)


def _cells(figures: dict) -> list[str]:
    return [cell(column, figures.get(column)) for column in COLUMNS]


def _print_difference(scores: Scores, other: dict, console: Console) -> None:
    gain, low, high = paired_bootstrap(scores.per_image, per_image_of(other))
    verdict = "zero lies inside it" if low <= 0 <= high else "zero lies outside it"
    console.print(
        f"AR {gain:+.2f} points against {other['label']}, 95 % interval {low:+.2f} to {high:+.2f} "
        f"(paired bootstrap over images): {verdict}",
        soft_wrap=True,
        highlight=False,
    )
