"""A store of photographs: a folder of tar shards with a manifest, read at random.

`images-00000.tar` ... hold the original bytes, `manifest.parquet` one row per image (where its bytes lie, their digest,
the decoded size), and `rejected.jsonl` every image that was left out and why.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sohes.data.store.decode import UnreadableImage, decode_image
from sohes.errors import SohesError
from sohes.project import require

MANIFEST_VERSION = "1"
MANIFEST = pa.schema(
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
    """The images of a packed folder by id. It holds no open file, so it can be pickled into worker processes.

    SohesError for a folder without a manifest, a manifest of another version, or an unknown image id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        table = _read_manifest(self.folder / "manifest.parquet")
        self.note: str = table.schema.metadata[b"note"].decode()
        self._columns: dict[str, list[Any]] = {
            field.name: table[field.name].to_pylist() for field in fields(ImageEntry)
        }
        self.image_ids: list[int] = self._columns["image_id"]
        self._rows = {image_id: row for row, image_id in enumerate(self.image_ids)}

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._rows

    def entry(self, image_id: int) -> ImageEntry:
        """The manifest's row of one image."""
        if image_id not in self._rows:
            raise SohesError(f"{self.folder} has no image {image_id} (it has {len(self)} images)")
        row = self._rows[image_id]
        return ImageEntry(**{name: column[row] for name, column in self._columns.items()})

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
    try:
        table = pq.read_table(require(path, "images", "pull"))
    except (pa.ArrowException, ValueError, OSError) as error:  # such as names that are no text
        raise SohesError(f"{path} is damaged ({str(error).splitlines()[0]}): run `sohes pull` again") from None
    found = (table.schema.metadata or {}).get(b"sohes_images", b"none").decode(errors="replace")
    if found != MANIFEST_VERSION:
        raise SohesError(
            f"{path} has manifest version {found} but this program reads {MANIFEST_VERSION}: run `sohes pull` again"
        )
    if not table.schema.equals(MANIFEST):
        raise SohesError(f"{path} is damaged (its columns are others): run `sohes pull` again")
    return table
