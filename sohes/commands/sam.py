"""`sohes sam`: SAM's masks on a benchmark's images, for its row in the table of `sohes score`.

They are shards, `shard-*.parquet` in the folder --out. Finished ones are kept, so a stopped run resumes; those of a run
with other settings are refused.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from sohes.data.benchmarks.catalogue import benchmark as find_benchmark
from sohes.data.benchmarks.catalogue import decode_photograph
from sohes.data.store.labels import write_shard
from sohes.errors import SohesError
from sohes.project import read_json
from sohes.work.files import write_json
from sohes.work.pool import plan_shards

IMAGES_PER_SHARD = 16


def sam(
    model: Annotated[Path, typer.Argument(help="A folder with SAM's weights, as transformers saves them.")],
    benchmark: Annotated[str, typer.Option(help="A name that `sohes benchmark-info` knows.")],
    root: Annotated[Path, typer.Option(help="Where its official download is unpacked.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks; a stopped run resumes there.")],
    points_per_side: Annotated[int, typer.Option(min=1, help="Prompt points per side of the grid.")] = 32,
    points_per_batch: Annotated[int, typer.Option(min=1, help="Prompts per batch.")] = 64,
    pred_iou: Annotated[float, typer.Option(help="Drop masks with a lower predicted IoU.")] = 0.88,
    stability: Annotated[float, typer.Option(help="Drop masks with a lower stability score.")] = 0.95,
) -> int:
    """SAM's masks on a benchmark, to score as a baseline.

    Example: sohes sam ~/sam-vit-huge --benchmark coco --root ~/coco --out sam-coco
    """
    from sohes.backbone.precision import best_device  # they import torch
    from sohes.evaluate.sam import make_sam

    reader = find_benchmark(benchmark)
    truth = list(reader.read_benchmark(root))
    settings = {"points_per_side": points_per_side, "pred_iou": pred_iou, "stability": stability}
    segment = make_sam(model, device=str(best_device()), points_per_batch=points_per_batch, **settings)  # type: ignore[arg-type]
    _claim(out, {"model": str(Path(model).resolve()), "benchmark": benchmark, "images": len(truth), **settings})
    shards = list(enumerate(plan_shards(truth, IMAGES_PER_SHARD)))
    for index, records in track(shards, description="sam"):
        path = out / f"shard-{index:05d}.parquet"
        if not path.exists():
            sizes = ((record.masks.height, record.masks.width) for record in records)
            files = (reader.read_image(root, record.file_name) for record in records)
            images = map(decode_photograph, files, sizes)
            write_shard(path, [replace(r, masks=segment(image)) for r, image in zip(records, images, strict=True)])
    print(f"wrote the masks of {len(truth)} images: sohes score {out} --benchmark {benchmark} --root {root}")
    return len(truth)


def _claim(out: Path, settings: dict[str, object]) -> None:
    """Write down what the shards depend on, or refuse a folder of shards that depend on something else."""
    path = out / "settings.json"
    if path.exists() and read_json(path, "name another folder with --out") != settings:
        raise SohesError(
            f"{out} holds the masks of another run (see its settings.json): name another folder with --out"
        )
    write_json(path, settings)
