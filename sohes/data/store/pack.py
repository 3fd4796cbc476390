"""Packing photographs: their bytes as they are into tar shards, and the manifest of a store."""

from __future__ import annotations

import hashlib
import itertools
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from sohes.data.store.decode import UnreadableImage, decode_stored
from sohes.data.store.ids import Ids
from sohes.data.store.images import MANIFEST_SCHEMA, MANIFEST_VERSION, ImageEntry
from sohes.data.store.rejected import Rejected, write_rejected
from sohes.errors import SohesError
from sohes.project import MANIFEST
from sohes.work.files import atomic_path

ROWS_PER_BATCH = 65_536  # of a manifest
Candidate = tuple[int, str, bytes | UnreadableImage]  # image id, file name, and the file or why there is none


def shard_name(index: int) -> str:
    """The file name of a store's tar."""
    return f"images-{index:05d}.tar"


class Packed(NamedTuple):
    """What `pack_shard` has written, left out and why, and the names of images of which the frame had to be assumed."""

    entries: list[ImageEntry]
    rejected: list[Rejected]
    assumed: list[str]


def pack_shard(
    candidates: Iterable[Candidate],
    path: Path,
    *,
    max_megapixels: float,
    apply_exif: bool,
    expected_hw: Mapping[int, tuple[int, int]] | None = None,
    annotations_upright: bool = False,
) -> Packed:
    """Write one tar of the images that decode, bytes as they came.

    expected_hw: (height, width) of an image's annotations by image id, which decides for it in place of `apply_exif`:
    if they fit the photograph turned upright only, it is turned; if they fit both ways, `annotations_upright` decides;
    if they fit neither, it is rejected.
    """
    done = Packed([], [], [])
    with atomic_path(path) as temporary, temporary.open("wb") as tar:
        for image_id, named, data in candidates:
            file_name = named.encode("utf-8", "backslashreplace").decode()  # a tar's or a JSON's name may be no text
            try:
                if isinstance(data, UnreadableImage):
                    raise data
                pixels_HW3, orientation = decode_stored(data, max_megapixels=max_megapixels)
                stored_hw = pixels_HW3.shape[:2]
                upright_hw = stored_hw[::-1] if orientation >= 5 else stored_hw
                turned, expected = apply_exif, (expected_hw or {}).get(image_id)
                if expected is not None:
                    fits = _fitting(stored_hw, upright_hw, expected)
                    turned = fits[0]
                    if len(fits) > 1 and orientation > 1:
                        turned = annotations_upright
                        done.assumed.append(file_name)
                height, width = upright_hw if turned else stored_hw
            except UnreadableImage as error:
                done.rejected.append(Rejected(file_name, error.reason))
                continue
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            # Named by its id: a name from an annotation file may point anywhere once unpacked.
            offset = _add_to_tar(tar, f"{image_id:012d}{_suffix(file_name)}", data)
            done.entries.append(
                ImageEntry(image_id, file_name, digest, height, width, path.name, offset, len(data), turned)
            )
        tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar
    return done


def _fitting(stored_hw: tuple, upright_hw: tuple, expected: tuple[int, int]) -> list[bool]:
    """Whether annotations of the expected size can be for stored pixels (False), upright ones (True), or both."""
    fits = [turned for turned, hw in ((False, stored_hw), (True, upright_hw)) if hw == expected]
    if not fits:
        (height, width), (theirs_h, theirs_w) = stored_hw, expected
        raise UnreadableImage(f"the photograph is {width} x {height}, its annotations are for {theirs_w} x {theirs_h}")
    return fits


def _suffix(file_name: str) -> str:
    """As much of the name's suffix as any tar's header can hold."""
    return PurePosixPath(file_name).suffix.lower().encode("ascii", "ignore").decode()[:16]


def _add_to_tar(tar: BinaryIO, name: str, data: bytes) -> int:
    """Append a file to a tar under a header of nothing but name and size; return the offset of its bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def write_manifest(folder: Path, packed: Iterable[ImageEntry], rejected: Iterable[Rejected], *, note: str = "") -> int:
    """Write `rejected.jsonl` and the manifest beside the tars, and return the number of images in it.

    packed: read once, a part at a time.  note: a sentence, for the metadata.  SohesError if an id occurs twice.
    """
    write_rejected(folder / "rejected.jsonl", rejected)
    entries = iter(packed)
    parts = iter(lambda: [asdict(entry) for entry in itertools.islice(entries, ROWS_PER_BATCH)], [])
    batches = (pa.RecordBatch.from_pylist(rows, MANIFEST_SCHEMA) for rows in parts)
    return write_batches(folder / MANIFEST, batches, note=note)


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], *, note: str = "") -> int:
    """Write a manifest; see `write_manifest`. Nothing is written if an id occurs twice."""
    text = note.encode("utf-8", "backslashreplace")  # it may name a file whose name is no text
    schema = MANIFEST_SCHEMA.with_metadata({"sohes_images": MANIFEST_VERSION, "note": text})
    ids: list[pa.Array] = []
    # Not compressed, so that it can be read where it lies.
    with atomic_path(path) as temporary:
        with pa.ipc.new_file(temporary, schema) as file:
            for batch in batches:
                file.write(batch)
                ids.append(batch["image_id"])
        packed = Ids.of_column(pa.chunked_array(ids, pa.int64()))
        if (twice := packed.twice()) is not None:
            raise SohesError(f"image id {twice} occurs twice: give every image an id of its own")
    return len(packed)
