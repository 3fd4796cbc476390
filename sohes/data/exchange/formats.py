"""The formats that `sohes export` and `sohes label` write, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sohes.data.exchange import id_maps, label_studio, labelme, yolo
from sohes.data.exchange.places import Places
from sohes.data.store.labels import export_coco, export_sa1b, write_shard
from sohes.errors import SohesError, remark
from sohes.masks.forest import select
from sohes.structures import CROWD, ImageRecord

FormatName = Literal["parquet", "coco", "sa1b", "yolo", "labelme", "label-studio", "id-maps"]


@dataclass(frozen=True)
class Format:
    """writer: takes records and the path. suffix: of the one file that it is, or empty for a folder.

    places: where the files lie that are named after their photographs, in a folder.  crowds: whether a reader can tell
    a crowd from an entity in it.
    """

    writer: Callable[[Iterable[ImageRecord], Path], None]
    suffix: str = ""
    places: Callable[[Path], Places] | None = None
    crowds: bool = True

    def write(self, records: Iterable[ImageRecord], path: Path) -> None:
        """SohesError for two images of one id or in one file. Crowds that it cannot hold are left out: stderr says so.

        records: read once, one at a time.
        """
        self.writer(records if self.crowds else _without_crowds(records), path)


FORMATS: dict[str, Format] = {
    "parquet": Format(lambda records, path: write_shard(path, records), ".parquet"),
    "coco": Format(export_coco, ".json"),
    "sa1b": Format(export_sa1b),
    "yolo": Format(yolo.write, places=yolo.places, crowds=False),
    "labelme": Format(labelme.write, places=labelme.places, crowds=False),
    "label-studio": Format(label_studio.write, ".json", crowds=False),
    "id-maps": Format(id_maps.write, places=id_maps.places),
}


def check_out(format: str, out: Path) -> None:
    """SohesError if `out` cannot hold what the format writes."""
    suffix = FORMATS[format].suffix
    if suffix and (out.suffix != suffix or out.is_dir()):
        raise SohesError(f"--out must name a {suffix} file for --format {format} (got {out})")
    if not suffix and out.is_file():
        raise SohesError(f"--out must name a folder for --format {format}, and {out} is a file: name another")


def check_names(format: str, out: Path, file_names: Iterable[str]) -> None:
    """SohesError if the format would have two of these photographs share a file, or one in no file below `out`."""
    of_format = FORMATS[format].places
    if of_format is not None:
        places = of_format(out)
        for name in file_names:
            places.take(name)


def _without_crowds(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    count, first = 0, ""
    for record in records:
        masks = record.masks
        if masks.entities < len(masks):
            count, first = count + len(masks) - masks.entities, first or record.file_name
            kept_K = np.flatnonzero([source != CROWD for source in masks.sources])
            record = dataclasses.replace(record, masks=select(masks, kept_K))
        yield record
    if count:
        hold = ", ".join(name for name, format in FORMATS.items() if format.crowds)
        remark(f"crowds are left out, {count} in all, such as in {first}: only {hold} hold them")
