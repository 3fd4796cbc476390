"""The formats that `sohes export` and `sohes label` write, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sohes.data.exchange import id_maps, label_studio, labelme, yolo
from sohes.data.store.labels import export_coco, export_sa1b, write_shard
from sohes.errors import SohesError
from sohes.structures import ImageRecord

FormatName = Literal["parquet", "coco", "sa1b", "yolo", "labelme", "label-studio", "id-maps"]


@dataclass(frozen=True)
class Format:
    """write: takes records and the path. suffix: of the one file that it is, or empty for a folder."""

    write: Callable[[Iterable[ImageRecord], Path], None]
    suffix: str = ""


FORMATS: dict[str, Format] = {
    "parquet": Format(lambda records, path: write_shard(path, records), ".parquet"),
    "coco": Format(export_coco, ".json"),
    "sa1b": Format(export_sa1b),
    "yolo": Format(yolo.write),
    "labelme": Format(labelme.write),
    "label-studio": Format(label_studio.write, ".json"),
    "id-maps": Format(id_maps.write),
}


def check_out(format: str, out: Path) -> None:
    """SohesError if `out` cannot hold what the format writes."""
    suffix = FORMATS[format].suffix
    if suffix and (out.suffix != suffix or out.is_dir()):
        raise SohesError(f"--out must name a {suffix} file for --format {format} (got {out})")
    if not suffix and out.is_file():
        raise SohesError(f"--out must name a folder for --format {format}, and {out} is a file: name another")
