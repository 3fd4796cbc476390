"""Photographs: decoded and checked, packed as they are into tar shards, read again at random.

A store is a folder: `images-00000.tar` ... with the original bytes, `manifest.parquet` with one row per image (where
its bytes lie, their digest, the decoded size), and `rejected.jsonl` with every image that was left out and why.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import shutil
import tarfile
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from sohes.errors import SohesError
from sohes.work.files import atomic_path

MIN_SIDE = 8  # pixels: a smaller image has no patch to look at
MAX_SIDE = 65_500  # what a JPEG can hold, in which photographs are shown beside their masks
MANIFEST_VERSION = "1"

# Only these decoders run on a stranger's bytes: others of Pillow's start outside programs (EPS) or read drawings.
# A phone's JPEG of several pictures (MPO) is opened by way of JPEG and must not be named.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# Pillow has its own guard against huge images; ours, `max_megapixels`, is checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(SohesError):
    """An image that cannot be used; `reason` says why, without the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# ---------------------------------------------------------------- decode


def decode_image(data: bytes, *, max_megapixels: float, apply_exif: bool) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of an image file's bytes. UnreadableImage says why not.

    Of an animation the first frame counts; transparency is laid on white, the page that cut-outs are made for;
    16-bit grey is scaled from its full range. `apply_exif` turns the image upright; without it the pixels stay as
    stored, which is the frame that COCO's annotations are drawn in (a TIFF's own orientation is always applied).
    """
    if not data:
        raise UnreadableImage("the file is empty")
    with _faults_named(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return rgb_pixels(image, max_megapixels=max_megapixels, apply_exif=apply_exif)


def rgb_pixels(image: Image.Image, *, max_megapixels: float, apply_exif: bool) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of a Pillow image, converted as `decode_image` says. UnreadableImage says why not."""
    _check_size(*image.size, max_megapixels)
    with _faults_named():
        image.load()
        return np.array(_rgb(_upright(image) if apply_exif else image))


@contextmanager
def _faults_named() -> Iterator[None]:
    """Whatever a decoder raises becomes an UnreadableImage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata; whether the pixels decode is what counts
        try:
            yield
        except UnreadableImage:
            raise
        except UnidentifiedImageError:
            raise UnreadableImage(f"not an image, or none of {', '.join(_FORMATS)}") from None
        except Exception as error:  # decoders meet damage with a dozen kinds of exceptions
            detail = (str(error) or type(error).__name__).splitlines()[0]
            raise UnreadableImage(f"damaged: {detail}") from None


def _check_size(width: int, height: int, max_megapixels: float) -> None:
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"too small: {width} x {height} pixels, at least {MIN_SIDE} on each side are needed")
    if max(width, height) > MAX_SIDE:
        raise UnreadableImage(f"too long: {width} x {height} pixels, at most {MAX_SIDE} on each side can be shown")
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise UnreadableImage(f"too large: {width} x {height} are {megapixels:.1f} megapixels (max {max_megapixels:g})")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged metadata around sound pixels: without an orientation the image counts as upright
        orientation = 1
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadableImage("floating-point pixels, of which the range is unknown: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _grey_from_16_bits(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_from_16_bits(values_HW: np.ndarray) -> Image.Image:
    """Pillow's own conversion cuts everything above 255 off."""
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise UnreadableImage(f"integer pixels from {values_HW.min()} to {values_HW.max()}: save it with 8 or 16 bits")
    return Image.fromarray(((values_HW.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


# ---------------------------------------------------------------- pack


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


@dataclass(frozen=True)
class Rejected:
    """A row of `rejected.jsonl`."""

    file_name: str
    reason: str


Candidate = tuple[int, str, bytes | UnreadableImage]  # image id, file name, and the file, or why there is none

_MANIFEST = pa.schema(
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


def shard_name(index: int) -> str:
    return f"images-{index:05d}.tar"


def pack_images(
    entries: Iterable[Candidate],
    folder: Path,
    *,
    images_per_shard: int,
    max_megapixels: float,
    apply_exif: bool,
    max_rejected_fraction: float,
) -> None:
    """Pack (image id, file name, bytes) into a new store, which replaces `folder` once it is whole.

    SohesError for no images, for an image id that occurs twice, and for more rejected images than allowed.
    """
    with new_folder(folder) as temporary:
        candidates = iter(entries)
        packed: list[ImageEntry] = []
        rejected: list[Rejected] = []
        for index in itertools.count():
            if not (group := list(itertools.islice(candidates, images_per_shard))):
                break
            path = temporary / shard_name(index)
            good, bad = pack_shard(group, path, max_megapixels=max_megapixels, apply_exif=apply_exif)
            packed += good
            rejected += bad
        check_rejected(len(packed), rejected, max_rejected_fraction=max_rejected_fraction)
        write_manifest(temporary, packed, rejected)


def pack_shard(
    candidates: Iterable[Candidate],
    path: Path,
    *,
    max_megapixels: float,
    apply_exif: bool,
    expected_hw: Mapping[int, tuple[int, int]] | None = None,
) -> tuple[list[ImageEntry], list[Rejected]]:
    """Write one tar of the images that decode, bytes as they came; what went in, and what did not and why.

    expected_hw: the (height, width) that an image's annotations are drawn in, by image id; another size is rejected.
    """
    packed: list[ImageEntry] = []
    rejected: list[Rejected] = []
    with atomic_path(path) as temporary, temporary.open("wb") as tar:
        for image_id, file_name, data in candidates:
            try:
                if isinstance(data, UnreadableImage):
                    raise data
                height, width = decode_image(data, max_megapixels=max_megapixels, apply_exif=apply_exif).shape[:2]
                _check_expected(height, width, (expected_hw or {}).get(image_id))
            except UnreadableImage as error:
                rejected.append(Rejected(file_name, error.reason))
                continue
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
            # Named by its id: a name out of an annotation file may point anywhere when the tar is unpacked.
            offset = _add_to_tar(tar, f"{image_id:012d}{PurePosixPath(file_name).suffix.lower()}", data)
            packed.append(
                ImageEntry(image_id, file_name, digest, height, width, path.name, offset, len(data), apply_exif)
            )
        tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar
    return packed, rejected


def _check_expected(height: int, width: int, expected: tuple[int, int] | None) -> None:
    if expected not in (None, (height, width)):
        assert expected is not None
        raise UnreadableImage(
            f"the photograph is {width} x {height}, its annotations are for {expected[1]} x {expected[0]}"
        )


def _add_to_tar(tar: BinaryIO, name: str, data: bytes) -> int:
    """Append a file to a tar, with a header that depends on nothing but name and size; the offset of its bytes."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def check_rejected(packed: int, rejected: Sequence[Rejected], *, max_rejected_fraction: float) -> None:
    """SohesError if nothing is left to work with, or too little; it names the first images and their reasons."""
    total = packed + len(rejected)
    if not total:
        raise SohesError("the source has no images: name one that has")
    first = "; ".join(f"{r.file_name}: {r.reason}" for r in rejected[:3])
    if len(rejected) > max_rejected_fraction * total:
        raise SohesError(
            f"{len(rejected)} of {total} images cannot be used, more than pull.max_rejected_fraction "
            f"({max_rejected_fraction:g}) allows: mend or remove them, or raise it. The first: {first}"
        )
    if not packed:
        raise SohesError(f"none of {total} images can be used: mend them or name others. The first: {first}")


def write_manifest(
    folder: Path,
    packed: Sequence[ImageEntry],
    rejected: Sequence[Rejected],
    *,
    note: str = "",
) -> None:
    """Write `rejected.jsonl` and `manifest.parquet` beside the tars. `note`, a sentence, goes into its metadata."""
    image_ids = [entry.image_id for entry in packed]
    if len(set(image_ids)) < len(image_ids):
        twice = next(i for i, count in zip(*np.unique(image_ids, return_counts=True), strict=True) if count > 1)
        raise SohesError(f"image id {twice} occurs twice: give every image an id of its own")
    with atomic_path(folder / "rejected.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in rejected), "utf-8")
    schema = _MANIFEST.with_metadata({"sohes_images": MANIFEST_VERSION, "note": note})
    with atomic_path(folder / "manifest.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(entry) for entry in packed], schema), temporary, compression="zstd")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling that replaces `folder` when the block ends well, and is removed when it does not."""
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(finished: Path, folder: Path) -> None:
    """Rename a finished folder, of the same file system, into place; what was there before is removed after."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        finished.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.old")
    folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old)


# ---------------------------------------------------------------- read


class ImageStore:
    """The images of a packed folder by id. It may be pickled into worker processes: it holds no open file.

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
            # Packed images passed the limit then in force; twice their size is met only by a tar that was swapped.
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
    if not path.exists():
        raise SohesError(f"no images at {path.parent}: run `sohes pull` first")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SohesError(f"{path} is damaged ({str(error).splitlines()[0]}): run `sohes pull` again") from None
    found = (table.schema.metadata or {}).get(b"sohes_images", b"none").decode()
    if found != MANIFEST_VERSION:
        raise SohesError(
            f"{path} has manifest version {found} but this program reads {MANIFEST_VERSION}: run `sohes pull` again"
        )
    return table
