"""A store of photographs: a folder of tar shards with a manifest, read at random.

`images-00000.tar` ... hold the original bytes, `manifest.arrow` one row per image (where its bytes lie, their digest,
the decoded size), and `rejected.jsonl` every image that was left out and why. The manifest is an Arrow IPC file, which
all processes of a machine map into memory: of 11 million rows, a process keeps the ids and reads the rows it asks for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sohes.data.store.decode import UnreadableImage, decode_image
from sohes.data.store.ids import Ids
from sohes.errors import SohesError, first_sentence
from sohes.project import MANIFEST, require

MANIFEST_VERSION = "2"
MANIFEST_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.string()),
        ("digest", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("apply_exif", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class ImageEntry:
    """A row of the manifest. `offset`, `size`: the file's bytes in the tar `shard`. `height`, `width`: as decoded."""

    image_id: int
    file_name: str
    digest: str
    height: int
    width: int
    shard: str
    offset: int
    size: int
    apply_exif: bool


class ImageStore:
    """The images of a packed folder by id. Pickled into a worker process, it opens the folder there again.

    SohesError for a folder without a manifest, a manifest of another version, or an unknown image id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        self._table = _read_manifest(path)
        try:
            self.note: str = self._table.schema.metadata[b"note"].decode()
            self._ids = Ids.of_column(self._table["image_id"])
        except KeyError:
            raise _damaged(path, "its note is missing") from None
        except ValueError as error:
            raise _damaged(path, first_sentence(error)) from None

    def __reduce__(self) -> tuple[type[ImageStore], tuple[Path]]:
        return ImageStore, (self.folder,)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def image_ids(self) -> np.ndarray:
        """(N,) int64, in the order of the manifest."""
        return self._ids.in_order

    def entry(self, image_id: int) -> ImageEntry:
        """The manifest's row of one image."""
        row = self._ids.row(image_id)
        if row is None:
            raise SohesError(f"{self.folder} has no image {image_id} (it has {len(self)} images)")
        found = self._table.slice(row, 1)
        try:
            found.validate(full=True)  # offsets of a damaged file point anywhere
            (values,) = found.to_pylist()
            if None in values.values():
                raise ValueError("a value is missing")
        except (pa.ArrowException, ValueError) as error:
            raise _damaged(self.folder / MANIFEST, f"image {image_id}: {first_sentence(error)}") from None
        return ImageEntry(**values)

    def with_digests(self, digests: Collection[str]) -> set[str]:
        """Those of the digests that images of this store have."""
        column = self._table["digest"]
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            raise _damaged(self.folder / MANIFEST, first_sentence(error)) from None
        return set(column.filter(pc.is_in(column, pa.array(list(digests), pa.string()))).to_pylist())

    def read_bytes(self, image_id: int) -> bytes:
        """The file as it was packed."""
        entry = self.entry(image_id)
        try:
            with (self.folder / entry.shard).open("rb") as tar:
                tar.seek(entry.offset)
                return tar.read(entry.size)
        except FileNotFoundError:
            raise SohesError(f"{self.folder / entry.shard} is missing: run `sohes pull` again") from None

    def read(self, image_id: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB pixels of one image, as `decode_image` gives them."""
        entry = self.entry(image_id)
        try:
            # They passed the limit when they were packed; only a swapped tar can exceed twice their size.
            limit = 2 * entry.height * entry.width / 1e6
            image = decode_image(self.read_bytes(image_id), max_megapixels=limit, apply_exif=entry.apply_exif)
        except UnreadableImage as error:
            raise SohesError(self._mismatch(entry, error.reason)) from None
        if image.shape[:2] != (entry.height, entry.width):
            raise SohesError(self._mismatch(entry, f"{image.shape[1]} x {image.shape[0]} pixels"))
        return image

    def _mismatch(self, entry: ImageEntry, found: str) -> str:
        where = f"{self.folder / entry.shard} does not match its manifest at image {entry.image_id}"
        return f"{where} ({entry.file_name}): {found}; run `sohes pull` again"


def _read_manifest(path: Path) -> pa.Table:
    """The table in the mapped file: what is not looked at is not read."""
    require(path, "images", "pull")
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        table.validate()
    except (pa.ArrowException, ValueError, OSError) as error:  # such as names that are no text
        raise _damaged(path, first_sentence(error)) from None
    found = (table.schema.metadata or {}).get(b"sohes_images", b"none").decode(errors="replace")
    if found != MANIFEST_VERSION:
        raise SohesError(
            f"{path} has manifest version {found} but this program reads {MANIFEST_VERSION}: run `sohes pull` again"
        )
    if not table.schema.equals(MANIFEST_SCHEMA):
        raise _damaged(path, "its columns are others")
    return table


def _damaged(path: Path, fault: str) -> SohesError:
    return SohesError(f"{path} is damaged ({fault}): run `sohes pull` again")
