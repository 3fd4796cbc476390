import errno
import io
import json
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.store.images import ImageStore, UnreadableImage, decode_image, pack_images
from sohes.errors import SohesError

# Twelve wide, nine high, so that a turned image shows; the left half red, the right half blue.
RED_BLUE = np.zeros((9, 12, 3), np.uint8)
RED_BLUE[:, :6, 0] = RED_BLUE[:, 6:, 2] = 255


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes, apply_exif: bool = True) -> np.ndarray:
    return decode_image(data, max_megapixels=1, apply_exif=apply_exif)


def why_not(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decoded(data)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises width x height pixels and has none: whoever decodes it runs out of data, or of memory."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(100))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# ---------------------------------------------------------------- decode


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_formats_give_their_pixels(format: str) -> None:
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(RED_BLUE), format)), RED_BLUE)


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"subsampling": 0}), ("WEBP", {}), ("MPO", {"subsampling": 0})]
)
def test_lossy_formats_are_read(format: str, options: dict) -> None:
    image = decoded(encoded(Image.fromarray(RED_BLUE), format, quality=95, **options))
    assert np.abs(image[:, [0, -1]].astype(int) - RED_BLUE[:, [0, -1]]).max() < 60
    assert image.shape == (9, 12, 3)
    assert image.dtype == np.uint8


def test_two_pictures_in_one_jpeg_give_the_first() -> None:
    first, second = Image.new("RGB", (12, 9), "red"), Image.new("RGB", (12, 9), "blue")
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert decoded(data)[0, 0, 0] > 200


def test_what_is_not_an_image_is_named() -> None:
    assert why_not(b"") == "the file is empty"
    assert "not an image" in why_not(b"<html>not found</html>")
    assert "not an image" in why_not(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n"
    )  # would start Ghostscript


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
@pytest.mark.parametrize("kept", [0.9, 0.5])
def test_truncated_images_are_rejected(format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format)
    assert why_not(data[: int(len(data) * kept)]).startswith(("damaged", "not an image"))


def test_damage_in_the_middle_is_rejected() -> None:
    data = bytearray(encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))))
    data[len(data) // 2] ^= 0xFF
    assert why_not(bytes(data)).startswith("damaged")


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (12, 9), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)
    np.testing.assert_array_equal(decoded(data), np.full((9, 12, 3), (255, 0, 0)))


def test_printing_colours_become_red_green_blue() -> None:
    cyan = decoded(encoded(Image.new("CMYK", (12, 9), (255, 0, 0, 0)), "JPEG", quality=95))
    assert cyan[0, 0, 0] < 30
    assert cyan[0, 0, 1:].min() > 200


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_scale(format: str) -> None:
    steps = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (9, 1))
    image = decoded(encoded(Image.fromarray(steps), format))
    np.testing.assert_array_equal(image[0, :, 0], np.arange(256))
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_pixels_of_unknown_range_are_rejected() -> None:
    assert "floating-point" in why_not(encoded(Image.new("F", (12, 9), 0.5), "TIFF"))
    assert "from 70000 to 70000" in why_not(encoded(Image.new("I", (12, 9), 70000), "TIFF"))


def test_grey_and_black_and_white_get_three_channels() -> None:
    np.testing.assert_array_equal(decoded(encoded(Image.new("L", (12, 9), 77))), np.full((9, 12, 3), 77))
    np.testing.assert_array_equal(decoded(encoded(Image.new("1", (12, 9), 1))), np.full((9, 12, 3), 255))


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (12, 9), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    image = decoded(encoded(clear))
    np.testing.assert_array_equal(image[0, 0], (255, 0, 0))
    np.testing.assert_array_equal(image[1, 1], (255, 255, 255))
    half = decoded(encoded(Image.new("LA", (12, 9), (0, 128))))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_a_palette_gives_its_colours_and_its_transparent_entry_white() -> None:
    palette = Image.fromarray(RED_BLUE).quantize(4, dither=Image.Dither.NONE)
    np.testing.assert_array_equal(decoded(encoded(palette)), RED_BLUE)
    red = palette.getpixel((0, 0))
    image = decoded(encoded(palette, transparency=red))
    np.testing.assert_array_equal(image[0, 0], (255, 255, 255))
    np.testing.assert_array_equal(image[0, 11], (0, 0, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photograph_upright_or_is_ignored(orientation: int) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)  # four grey quarters, each of them told apart after any turn
    stored[:8, :16], stored[:8, 16:], stored[8:, :16], stored[8:, 16:] = 0, 80, 160, 240
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), "JPEG", exif=exif, quality=100, subsampling=0)
    # The tag says which side of the scene the stored first row and first column are (Exif 2.3, tag 274).
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    assert decoded(data, apply_exif=True).shape == upright.shape
    assert np.abs(decoded(data, apply_exif=True).astype(int) - upright).max() < 8
    assert np.abs(decoded(data, apply_exif=False).astype(int) - stored).max() < 8


def test_damaged_exif_does_not_cost_the_photograph() -> None:
    data = encoded(Image.fromarray(RED_BLUE), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffgarbage")
    assert decoded(data).shape == (9, 12, 3)


def test_size_limits() -> None:
    assert "too small: 1 x 1" in why_not(encoded(Image.new("RGB", (1, 1))))
    assert "too small: 7 x 300" in why_not(encoded(Image.new("RGB", (7, 300))))
    assert decoded(encoded(Image.new("RGB", (8, 8)))).shape == (8, 8, 3)
    assert "too long: 65501 x 8" in why_not(encoded(Image.new("1", (65501, 8))))
    assert "too large: 1001 x 1000" in why_not(encoded(Image.new("1", (1001, 1000))))


def test_a_huge_image_is_rejected_by_its_header() -> None:
    data = png_header(20_000, 10_000)
    with pytest.raises(UnreadableImage, match=r"200\.0 megapixels \(max 100\)"):
        decode_image(data, max_megapixels=100, apply_exif=True)
    with pytest.raises(UnreadableImage, match="damaged"):  # the limit is ours alone: a larger one lets it pass
        decode_image(data, max_megapixels=201, apply_exif=True)


# ---------------------------------------------------------------- pack and read


def pack(folder: Path, entries: list, **changed: object) -> None:
    options: dict = {"images_per_shard": 2, "max_megapixels": 1, "apply_exif": True, "max_rejected_fraction": 0.5}
    pack_images(entries, folder, **(options | changed))


def three_images() -> list[tuple[int, str, bytes]]:
    return [(i, f"a/{i}.PNG", encoded(Image.new("RGB", (10 + i, 20), (i, 0, 0)))) for i in (7, 3, 5)]


def test_a_store_gives_back_what_was_packed(tmp_path: Path) -> None:
    entries = three_images()
    pack(tmp_path / "images", entries)
    store = pickle.loads(pickle.dumps(ImageStore(tmp_path / "images")))
    assert store.image_ids == [7, 3, 5]
    assert len(store) == 3
    for image_id, file_name, data in reversed(entries):
        assert store.read_bytes(image_id) == data
        np.testing.assert_array_equal(store.read(image_id), decoded(data))
        entry = store.entry(image_id)
        assert (entry.file_name, entry.height, entry.width) == (file_name, 20, 10 + image_id)
        assert entry.digest.startswith("sha256:")
    assert store.entry(5).shard == "images-00001.tar"
    with pytest.raises(SohesError, match="has no image 4"):
        store.read(4)


def test_the_shards_are_tars_that_anyone_can_read(tmp_path: Path) -> None:
    pack(tmp_path / "images", three_images())
    with tarfile.open(tmp_path / "images/images-00000.tar") as tar:
        assert tar.getnames() == ["000000000007.png", "000000000003.png"]
        assert tar.extractfile("000000000003.png").read() == three_images()[1][2]


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "one", three_images())
    pack(tmp_path / "two", three_images())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["images-00000.tar", "images-00001.tar", "manifest.parquet", "rejected.jsonl"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_exif_is_applied_on_reading_as_on_packing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif)
    for apply_exif, shape in ((True, (30, 20, 3)), (False, (20, 30, 3))):
        pack(tmp_path / str(apply_exif), [(1, "a.jpg", data)], apply_exif=apply_exif)
        assert ImageStore(tmp_path / str(apply_exif)).read(1).shape == shape


def test_rejected_images_are_listed_with_their_reason(tmp_path: Path) -> None:
    missing = UnreadableImage("no such photograph in the folder")
    pack(tmp_path / "images", [*three_images(), (8, "bad.jpg", b"bad"), (9, "gone.jpg", missing)])
    rows = [json.loads(line) for line in (tmp_path / "images/rejected.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rows] == ["bad.jpg", "gone.jpg"]
    assert rows[1]["reason"] == "no such photograph in the folder"
    assert ImageStore(tmp_path / "images").image_ids == [7, 3, 5]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "the source has no images"),
        ([*three_images(), (8, "x.jpg", b"x")], r"1 of 4 images cannot be used.*x\.jpg: not an image"),
        ([*three_images(), three_images()[0]], "image id 7 occurs twice"),
    ],
)
def test_a_bad_source_stops_and_leaves_nothing(tmp_path: Path, entries: list, sentence: str) -> None:
    with pytest.raises(SohesError, match=sentence):
        pack(tmp_path / "images", entries, max_rejected_fraction=0.2)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_rejected_images_is_an_error_whatever_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="none of 1 images can be used"):
        pack(tmp_path / "images", [(1, "x.jpg", b"x")], max_rejected_fraction=1)


def test_a_full_disk_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "images", three_images()[:1])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        pack(tmp_path / "images", three_images())
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert ImageStore(tmp_path / "images").image_ids == [7]


def test_a_store_that_does_not_match_says_so(tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="run `sohes pull` first"):
        ImageStore(tmp_path)
    pack(tmp_path / "images", three_images())
    store = ImageStore(tmp_path / "images")
    tar = tmp_path / "images/images-00001.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(SohesError, match=r"does not match its manifest at image 5 \(a/5\.PNG\)"):
        store.read(5)
    tar.unlink()
    with pytest.raises(SohesError, match="is missing: run `sohes pull` again"):
        store.read(5)
    (tmp_path / "images/manifest.parquet").write_bytes(b"nonsense")
    with pytest.raises(SohesError, match="is damaged"):
        ImageStore(tmp_path / "images")


def test_real_photographs(tmp_path: Path, shared_data: Path) -> None:
    photos = sorted((shared_data / "sa1b_photos").glob("*.jpg"))
    pack(tmp_path / "images", [(i, p.name, p.read_bytes()) for i, p in enumerate(photos, 1)], max_megapixels=100)
    store = ImageStore(tmp_path / "images")
    assert [store.read(i).shape[:2] for i in (1, 4, 6)] == [(1914, 1500), (2250, 1500), (1500, 2250)]
    assert store.read_bytes(4) == photos[3].read_bytes()
