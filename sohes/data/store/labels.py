"""Label and prediction shards: Parquet, one row per image, masks as run lengths with their forest.

A mask's `id` is its place in the image's list, from 0, and `parent` is such an id, or -1 for a whole entity. `rle` is
COCO's compressed run lengths, which are ASCII.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sohes.data.store.ids import Ids, distinct
from sohes.errors import SohesError, first_sentence
from sohes.masks import areas, boxes_xywh, gate
from sohes.masks.forest import check_forest, levels
from sohes.masks.mask_json import CATEGORIES, coco_annotations, coco_image, sa1b
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import atomic_path, write_json

SCHEMA_VERSION = "1"
_THREADS = 8
ROWS_PER_GROUP = 16  # one image read at random costs one group: small groups keep that near a millisecond

_MASK = pa.struct(
    [
        ("id", pa.int32()),
        ("rle", pa.string()),
        ("area", pa.int64()),
        ("bbox_xywh", pa.list_(pa.float64())),
        ("score", pa.float32()),
        ("parent", pa.int32()),
        ("level", pa.int32()),
        ("source", pa.string()),
    ]
)
_TRUTH = pa.struct([*_MASK, ("stated_area", pa.float64())])  # of a ground truth whose file states areas


def _schema(mask: pa.StructType) -> pa.Schema:
    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("file_name", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("digest", pa.string()),
            ("masks", pa.list_(mask)),
        ],
        metadata={"sohes_labels": SCHEMA_VERSION},
    )


_SCHEMAS = _schema(_MASK), _schema(_TRUTH)


# ---------------------------------------------------------------- shards


def write_shard(path: Path, records: Iterable[ImageRecord]) -> None:
    """Write records as one Parquet file, in their order: whole or absent, the same bytes for the same records.

    Either all have stated areas or none has. SohesError, and no file, if an image id occurs twice.
    """
    rows = distinct(records)
    first = next(rows, None)
    schema = _SCHEMAS[first is not None and first.masks.stated_areas is not None]
    rows = itertools.chain([] if first is None else [first], rows)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist([_row(record) for record in group], schema))


def read_shard(path: Path) -> list[ImageRecord]:
    """All records of one shard. SohesError if the file is not a label shard of this version."""
    return list(_iter_shard(path))


def iter_records(folder: Path) -> Iterator[ImageRecord]:
    """The records of all shards of a folder, or of one shard, one row group in memory at a time, in the order of the
    shards' names."""
    return itertools.chain.from_iterable(map(_iter_shard, _shards(folder)))


def _iter_shard(path: Path) -> Iterator[ImageRecord]:
    with _open(path) as file:
        for group in range(file.num_row_groups):
            table = _read_group(file, group, path)
            yield from (_record(table, row, path) for row in range(len(table)))


class LabelStore:
    """The records of a folder of shards by image id; ids, the places of row groups, and the last group read are kept.

    It holds no open file, so it can be pickled into worker processes, and threads may share it. SohesError for a folder
    without shards, a shard of another version, or an image id that occurs twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._shards = _shards(self.folder)
        with ThreadPoolExecutor(_THREADS) as threads:  # a shared file system takes milliseconds for each
            found = list(threads.map(_ids, self._shards))
        self._ids = Ids.of_column(pa.chunked_array([part for ids, _ in found for part in ids.chunks], pa.int64()))
        if (twice := self._ids.twice()) is not None:
            raise SohesError(f"{self.folder} holds image {twice} twice: remove its stale shards")
        self._first_rows = _starts([count for _, rows in found for count in rows])  # of every row group of all shards
        self._first_groups = _starts([len(rows) for _, rows in found])  # of every shard
        self._cached: tuple[int, pa.Table] | None = None  # the number of a row group, and what it holds

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: int) -> bool:
        return self._ids.row(image_id) is not None

    @property
    def image_ids(self) -> np.ndarray:
        """(N,) int64, in the order of the shards."""
        return self._ids.in_order

    def record(self, image_id: int) -> ImageRecord:
        """One image's record. SohesError if the store has no such image."""
        row = self._ids.row(image_id)
        if row is None:
            raise SohesError(f"{self.folder} has no labels for image {image_id} (it has {len(self)} images)")
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        shard = int(np.searchsorted(self._first_groups, group, side="right")) - 1
        path = self._shards[shard]
        cached = self._cached  # read once, for another thread may replace it
        if cached is None or cached[0] != group:
            with _open(path) as file:
                cached = self._cached = group, _read_group(file, group - int(self._first_groups[shard]), path)
        return _record(cached[1], row - int(self._first_rows[group]), path)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


def _ids(path: Path) -> tuple[pa.ChunkedArray, list[int]]:
    """The image ids of a shard, and the number of rows of each of its row groups."""
    with _open(path) as file, _readable(path):
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ids = file.read(columns=["image_id"], use_threads=False)["image_id"]
    if ids.null_count:
        raise SohesError(f"{path} cannot be read as a label shard (an image has no id): write it again")
    return ids, rows


def _starts(lengths: list[int]) -> np.ndarray:
    """Where each of several runs begins that follow one another."""
    return np.cumsum([0, *lengths])[:-1]


def _shards(folder: Path) -> list[Path]:
    if Path(folder).is_file():
        return [Path(folder)]
    # A killed writer leaves a name with a leading dot.
    paths = sorted(path for path in Path(folder).glob("*.parquet") if not path.name.startswith("."))
    if not paths:
        raise SohesError(f"no label shards (*.parquet) in {folder}: run the stage that writes them first")
    return paths


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, ValueError, OSError) as error:  # such as names that are no text
        if _is_the_disks(error):
            raise
        raise SohesError(f"{path} cannot be read as a label shard ({first_sentence(error)}): write it again") from None
    found = (file.schema_arrow.metadata or {}).get(b"sohes_labels", b"none").decode(errors="replace")
    if found != SCHEMA_VERSION:
        file.close()
        raise SohesError(
            f"{path} has label schema version {found} but this program reads version {SCHEMA_VERSION}: "
            "write it again with this version, or read it with the one that wrote it"
        )
    if not any(file.schema_arrow.equals(schema) for schema in _SCHEMAS):
        file.close()
        raise SohesError(f"{path} cannot be read as a label shard (its columns are others): write it again")
    return file


def _read_group(file: pq.ParquetFile, group: int, path: Path) -> pa.Table:
    with _readable(path):
        return file.read_row_group(group, use_threads=False)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if _is_the_disks(error):
            raise
        raise SohesError(f"{path} cannot be read as a label shard ({first_sentence(error)}): write it again") from None


def _is_the_disks(error: Exception) -> bool:
    """Whether the file may be sound; Arrow's errors of what it cannot decode are an OSError without a number."""
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)


def _row(record: ImageRecord) -> dict[str, Any]:
    masks = record.masks
    columns = zip(
        masks.rles, areas(masks), boxes_xywh(masks), masks.scores, masks.parents, levels(masks.parents), masks.sources,
        itertools.repeat(None, len(masks)) if masks.stated_areas is None else masks.stated_areas.tolist(),
        strict=True,
    )  # fmt: skip
    return {
        "image_id": record.image_id,
        "file_name": record.file_name,
        "height": masks.height,
        "width": masks.width,
        "digest": record.digest,
        "masks": [
            {
                "id": i,
                "rle": rle.decode("ascii"),
                "area": int(area),
                "bbox_xywh": box.tolist(),
                "score": float(score),
                "parent": int(parent),
                "level": int(level),
                "source": source,
                "stated_area": stated,
            }
            for i, (rle, area, box, score, parent, level, source, stated) in enumerate(columns)
        ],
    }


def _record(table: pa.Table, row: int, path: Path) -> ImageRecord:
    """SohesError if the masks are none that the rest can work with: anybody may have written the file."""
    image = table.slice(row, 1)
    image_id, file_name, height, width, digest = (image[name][0].as_py() for name in table.column_names[:5])
    found = image["masks"].combine_chunks().flatten()
    columns = dict(zip(found.type.names, found.flatten(), strict=True))
    try:
        if None in (image_id, file_name, digest) or any(column.null_count for column in columns.values()):
            raise ValueError("a value is missing")
        size = gate.checked_size(height, width)
        rles = gate.checked(columns["rle"].cast(pa.binary()).to_pylist(), size)
        scores = columns["score"].to_numpy(zero_copy_only=False).astype(np.float32)
        parents = columns["parent"].to_numpy(zero_copy_only=False).astype(np.int64)
        if not np.isfinite(scores).all():
            raise ValueError("a score is no finite number")
        check_forest(parents)
    except ValueError as error:
        masks = f"the masks of {file_name} (image {image_id}) cannot be read"
        raise SohesError(f"{path}: {masks}: {error}: write it again") from None
    stated = columns.get("stated_area")
    return ImageRecord(
        image_id,
        file_name,
        digest,
        MaskSet(
            *size,
            rles,
            scores,
            parents,
            tuple(columns["source"].to_pylist()),
            None if stated is None else stated.to_numpy(zero_copy_only=False),
        ),
    )


# ---------------------------------------------------------------- export


def export_coco(records: Path | Iterable[ImageRecord], path: Path) -> None:
    """Write a folder of shards, one shard, or records as one COCO JSON file, as `sohes.masks.mask_json` describes it.

    Annotation ids count through the file. One image is in memory at a time. SohesError, and no file, if an image id
    occurs twice.
    """
    images: list[dict[str, Any]] = []
    next_id = 1
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "sohes labels"}, "licenses": [],\n')
        file.write(f'"categories": {json.dumps(CATEGORIES)},\n')
        file.write('"annotations": [')
        for record in _records(records):
            images.append(coco_image(record.masks, record.file_name, record.image_id))
            annotations = coco_annotations(record.masks, record.image_id, first_id=next_id)
            _write_items(file, annotations, first=next_id == 1)
            next_id += len(annotations)
        file.write('],\n"images": [')
        _write_items(file, images, first=True)
        file.write("]}\n")


def export_sa1b(records: Path | Iterable[ImageRecord], folder: Path) -> None:
    """Write a folder of shards, one shard, or records as SA-1B JSON, one file `sa_<image id>.json` per image.

    SohesError at an image id that occurs twice.
    """
    for record in _records(records):
        write_json(Path(folder) / f"sa_{record.image_id}.json", sa1b(record.masks, record.file_name, record.image_id))


def _records(records: Path | Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    return distinct(iter_records(Path(records)) if isinstance(records, str | Path) else records)


def _write_items(file: TextIO, items: list[dict[str, Any]], *, first: bool) -> None:
    for item in items:
        file.write(("\n" if first else ",\n") + json.dumps(item))
        first = False
