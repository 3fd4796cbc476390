"""`sohes label`: phase 1 alone for a folder of photographs, as one file of labels.

The photographs are read in place and get ids from 1 in the order of their names. Finished parts wait in a hidden folder
beside the output, so a killed run continues. The same photographs and params give the same bytes, whatever the number
of processes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sohes.commands.options import BACKBONE, HERE, ParamsFile, Upright
from sohes.data.exchange.formats import FORMATS, FormatName, check_names, check_out
from sohes.data.sources.folder import FolderSource
from sohes.data.sources.source import Photograph
from sohes.data.store.decode import decode_image
from sohes.data.store.labels import iter_records
from sohes.data.store.rejected import first_reasons, write_rejected
from sohes.errors import SohesError, TemporaryError
from sohes.explore import label_free
from sohes.explore.feature_server import shared_extractor
from sohes.explore.label_images import label_images, write_labelled
from sohes.explore.local import Extract
from sohes.explore.maps import make_extractor
from sohes.explore.refine import most_workers, require_refiner, weights_digest, weights_file
from sohes.params import Params, load_params_anywhere
from sohes.stages.explore import SCHEMA_VERSION, add_up
from sohes.work.files import digest_file, require_writable, write_json
from sohes.work.identity import code_digest, identity
from sohes.work.origin import Origin, code_of
from sohes.work.pool import Shard, default_workers, plan_shards
from sohes.work.sharded import ShardedWork

LONGEST_NAME = 240  # bytes: a file system allows 255, and `.rejected.jsonl` takes the place of `.parquet`
PHOTOGRAPHS_PER_PART = 8  # what a kill costs a process at most


def label(
    folder: Annotated[Path, typer.Argument(help="Folder of photographs, searched recursively.")],
    out: Annotated[Path, typer.Option(help="The file or folder to write, NAME.rejected.jsonl beside it.")] = Path(
        "labels.parquet"
    ),
    format: Annotated[FormatName, typer.Option(help="As in export.")] = "parquet",
    backbone: Annotated[
        Path | None, typer.Option(help="Makes the tokens of explore.features.", show_default=str(BACKBONE))
    ] = None,
    exif: Upright = True,
    params: ParamsFile = HERE.params,
) -> None:
    """Phase 1 alone: pseudo-labels for a folder.

    After a kill, the same command resumes.

    Example: sohes label ~/photos --out labels.json --format coco
    """
    values = load_params_anywhere(params)
    if out.name in ("", ".."):  # the folder has a name all the same, but `/`
        out = Path(os.path.abspath(out))  # noqa: PTH100 (links stay)
    if not out.name:
        raise SohesError(f"--out cannot be {out}: name a file or folder in it")
    check_out(format, out)
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        raise SohesError(f"--out has a name of {len(os.fsencode(out.name))} bytes: take one of {LONGEST_NAME} at most")
    if not folder.is_dir():
        raise SohesError(f"there is no folder of photographs at {folder}: name one")
    require_writable(out.parent)
    if backbone is not None and not values.explore.uses_backbone:
        raise SohesError(
            f"explore.features is {values.explore.features}, for which {backbone} is not needed: leave out --backbone, "
            "or set explore.features to tokens"
        )
    backbone = backbone or BACKBONE
    if values.explore.uses_backbone and not backbone.exists():
        raise SohesError(
            f"no backbone at {backbone}, but explore.features is {values.explore.features}: run `sohes backbone`, name "
            "one with --backbone, or take the features `handmade`"
        )
    require_refiner(values.explore.refiner)  # what it lacks is said now, not once a photograph
    source = FolderSource(folder, None, 0.0)
    plan = source.plan()
    for note in plan.notes:
        print(note, flush=True)
    check_names(format, out, (photograph.file_name for photograph in plan.train))  # now, not once all are labelled
    weights = (backbone if values.explore.uses_backbone else None, weights_file(values.explore.refiner))
    origin = Origin(
        "label",
        values,
        params,
        sections=("explore", "pull"),
        code=code_of("sohes.commands.label"),
        inputs=[file for file in weights if file is not None],
        load=load_params_anywhere,
        unfinished=_unfinished(out),
    )
    depends = {
        "schema": SCHEMA_VERSION,
        "params": values.explore.model_dump(mode="json", exclude={"images_per_shard", "max_rejected_fraction"}),
        "backbone": digest_file(backbone) if values.explore.uses_backbone else None,
        "refiner": weights_digest(values.explore.refiner),
        "upright": exif,
        "max_megapixels": values.pull.max_megapixels,
    }
    named = {**depends, "code": code_digest("sohes.commands.label")}
    work = _cut(plan.train, named, out)
    left = work.left()
    if len(left) < len(work.shards):
        print(f"{len(work.shards) - len(left)} of {len(work.shards)} parts were finished before", flush=True)
    workers = most_workers(values.explore.refiner, default_workers())
    with shared_extractor(values.explore, backbone, workers=workers) as extract:
        label_part = partial(_label_part, work, source, values, backbone=backbone, apply_exif=exif, extract=extract)
        work.run(label_part, left, workers=workers, description="label")
    origin.check()
    if _cut(source.plan().train, named, out).names != work.names:
        raise TemporaryError(f"photographs in {folder} changed while label ran: run it again; finished parts are kept")
    _finish(work, values, depends, out, format, label_free.of_labels(values.explore, backbone))


def _cut(photographs: Sequence[Photograph], depends: dict[str, object], out: Path) -> ShardedWork:
    """Parts named after all that each depends on: other photographs in the folder leave a finished part valid."""
    parts = plan_shards(photographs, PHOTOGRAPHS_PER_PART)
    stamps = [[(p.image_id, p.file_name, p.stamp) for p in part] for part in parts]
    return ShardedWork(_unfinished(out) / "labels", parts, [f"part-{identity([depends, part])}" for part in stamps])


def _unfinished(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def _label_part(
    work: ShardedWork,
    source: FolderSource,
    params: Params,
    part: Shard,
    *,
    backbone: Path,
    apply_exif: bool,
    extract: Extract | None,
) -> dict[str, Any]:
    """extract: where features come from if not from a backbone of the worker's own."""

    def read(photograph: Photograph) -> tuple[str, np.ndarray]:
        data = source.read(photograph)
        image = decode_image(data, max_megapixels=params.pull.max_megapixels, apply_exif=apply_exif)
        return f"sha256:{hashlib.sha256(data).hexdigest()}", image

    index, photographs = part
    named = ((photograph.image_id, photograph.file_name, partial(read, photograph)) for photograph in photographs)
    features = extract or make_extractor(params.explore, backbone)
    return write_labelled(work.path(index, ".parquet"), [label_images(named, features, params.explore)])


def _finish(
    work: ShardedWork, params: Params, depends: dict[str, object], out: Path, format: str, claim: bool | None
) -> None:
    """Join the parts into the output and remove them."""
    counts, rejected = add_up(work.facts(), claim)
    total, images, explore = sum(map(len, work.shards)), counts["images"], params.explore
    first = first_reasons(rejected)
    if not images:
        work.remove()
        raise SohesError(f"none of {total} photographs could be labelled: fix them or name others. The first: {first}")
    parts = (iter_records(work.path(index, ".parquet")) for index in range(len(work.shards)))
    FORMATS[format].write(itertools.chain.from_iterable(parts), out)
    name = out.stem if out.suffix == ".parquet" else out.name  # two outputs may lie in one folder
    rejected_list = out.with_name(f"{name}.rejected.jsonl")
    write_rejected(rejected_list, rejected)
    write_json(out.with_name(f"{name}.manifest.json"), {**counts, **depends})
    work.remove()
    print(
        f"wrote {out}: {images} photographs, {counts['masks'] / images:.1f} masks each, {len(rejected)} rejected "
        f"({rejected_list}); label-free: {label_free.in_words(claim)}",
        flush=True,
    )
    if len(rejected) > explore.max_rejected_fraction * total:
        raise SohesError(
            f"{len(rejected)} of {total} photographs could not be labelled, more than explore.max_rejected_fraction "
            f"({explore.max_rejected_fraction:g}) allows; the labels of the others are written. The first: {first}"
        )
