"""Predictions of any format, read and matched to a benchmark's image ids."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from sohes.data.benchmarks.layout import named_below
from sohes.data.benchmarks.predictions import coco_json, sa1b_json
from sohes.data.exchange import id_maps, yolo
from sohes.data.names import Names
from sohes.data.sources.source import SUFFIXES
from sohes.data.store.labels import iter_records
from sohes.errors import SohesError, remark
from sohes.structures import ImageRecord

DETECTRON2 = "coco_instances_results.json"  # what its evaluation leaves in a folder


def read_predictions(paths: Sequence[Path], truth: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
    """All records of the files and folders together, each with the image id of the truth's image that it is of.

    Records that carry a file name are matched by it, others by their image id. SohesError for a path of no known kind
    and for an image that the truth does not have.
    """
    return match(itertools.chain.from_iterable(read_records(Path(path), truth) for path in paths), truth)


def read_records(path: Path, truth: Sequence[ImageRecord] = ()) -> Iterator[ImageRecord]:
    """The records of a path, with the ids and names that it gives them: -1 and "" where it gives none.

    A path is a COCO or Label Studio JSON file, one of our Parquet shards, a folder of them, of id maps, of YOLO's
    labels or of SA-1B's and LabelMe's JSON, or one that detectron2 has evaluated into. truth: images whose sizes some
    formats leave out. SohesError for a path of no known kind.
    """
    sizes = {record.image_id: (record.masks.height, record.masks.width) for record in truth}
    if not path.exists():
        raise SohesError(f"there are no predictions at {path}: fix the path")
    if path.is_file() and path.suffix == ".parquet":
        return iter_records(path)
    if path.is_file():
        return coco_json.read(path, sizes)
    if any(path.glob("[!.]*.parquet")):
        return iter_records(path)
    if (path / DETECTRON2).is_file():
        return coco_json.read(path / DETECTRON2, sizes)
    if maps := named_below(path, f"*{id_maps.SUFFIX}"):
        return map(id_maps.read, maps)
    texts, contents = yolo.files(path), named_below(path, "*.json")
    if texts and (not contents or any(map(yolo.is_label, texts))):  # a text beside JSON may be about it
        return yolo.read(path, truth)
    if contents:
        return sa1b_json.read(path)
    raise SohesError(
        f"{path} holds no predictions that can be read: name a COCO or Label Studio JSON file, a Parquet shard, or a "
        "folder of shards, id maps, YOLO labels, or SA-1B or LabelMe JSON"
    )


def match(predictions: Iterable[ImageRecord], truth: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
    """Each prediction with its benchmark's image id.

    It is found by its name, else by its path without a photograph's suffix, else by the last part of that if only one
    image has it, else by the last parts as other tools write them, which a line on stderr reports; without a file name
    by id. SohesError for an image that is not the benchmark's, and for a name of several.
    """
    named = [record for record in truth if record.file_name]
    exact = _of_one((record.file_name, record.image_id) for record in named)
    whole = _of_one((_bare(record.file_name), record.image_id) for record in named)
    last = _of_one((_stem(record.file_name), record.image_id) for record in named)
    stems = {_stem(record.file_name) for record in named}
    ids = {record.image_id for record in truth}
    names = Names(_bare(record.file_name) for record in named)
    odd: list[str] = []
    for record in predictions:
        name = record.file_name
        image_id = exact.get(name, whole.get(_bare(name), last.get(_stem(name)))) if name else record.image_id
        if image_id is None and (found := names.find(_bare(name))) is not None:
            image_id = whole[found]
            odd.append(f"{name}, which is taken for {found}")
        if image_id is None or image_id not in ids:
            several = bool(name) and _stem(name) in stems
            raise SohesError(
                f"the predictions hold {name or f'image {record.image_id}'}, "
                + ("which is the name of several of the benchmark's images" if several else "which the benchmark lacks")
                + ": predict the benchmark's own images, under their own names or ids"
            )
        yield record if record.image_id == image_id else dataclasses.replace(record, image_id=image_id)
    if odd:
        remark(f"{len(odd)} predictions have other names than the benchmark, such as {odd[0]}")


def _of_one(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The image of each name, without the names of several."""
    found: dict[str, int | None] = {}
    for name, image_id in pairs:
        found[name] = None if name in found else image_id
    return {name: image_id for name, image_id in found.items() if image_id is not None}


def _bare(name: str) -> str:
    """The path without a photograph's suffix: what follows another dot, as in `v1.0`, is part of the name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix.lower() in SUFFIXES else path)


def _stem(name: str) -> str:
    return PurePosixPath(_bare(name)).name
