import errno
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from packing import pack_images
from PIL import Image

from sohes.data.store.decode import UnreadableImage, decode_image
from sohes.data.store.images import ImageStore
from sohes.data.store.pack import write_manifest
from sohes.errors import SohesError


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pack(folder: Path, entries: list, **changed: object) -> None:
    options: dict = {"images_per_shard": 2, "max_megapixels": 1, "apply_exif": True, "max_rejected_fraction": 0.5}
    pack_images(entries, folder, **(options | changed))


def three_images() -> list[tuple[int, str, bytes]]:
    return [(i, f"a/{i}.PNG", encoded(Image.new("RGB", (10 + i, 20), (i, 0, 0)))) for i in (7, 3, 5)]


def test_a_store_gives_back_what_was_packed(tmp_path: Path) -> None:
    entries = three_images()
    pack(tmp_path / "images", entries)
    store = pickle.loads(pickle.dumps(ImageStore(tmp_path / "images")))
    assert store.image_ids.tolist() == [7, 3, 5]
    assert len(store) == 3
    for image_id, file_name, data in reversed(entries):
        assert store.read_bytes(image_id) == data
        np.testing.assert_array_equal(store.read(image_id), decode_image(data, max_megapixels=1, apply_exif=True))
        entry = store.entry(image_id)
        assert (entry.file_name, entry.height, entry.width) == (file_name, 20, 10 + image_id)
        assert entry.digest.startswith("sha256:")
    assert store.entry(5).shard == "images-00001.tar"
    with pytest.raises(SohesError, match="has no image 4"):
        store.read(4)


def test_the_manifest_is_written_and_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sohes.data.store.pack.ROWS_PER_BATCH", 2)
    pack(tmp_path / "images", three_images())
    store = ImageStore(tmp_path / "images")
    with pa.memory_map(str(tmp_path / "images/manifest.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == 2
    assert store.image_ids.tolist() == [7, 3, 5]
    assert [store.entry(i).width for i in (7, 3, 5)] == [17, 13, 15]
    digests = [store.entry(i).digest for i in (5, 7)]
    assert store.with_digests([*digests, "sha256:0"]) == set(digests)
    assert store.with_digests([]) == set()


def test_a_store_that_is_replaced_meanwhile_is_read_to_the_end(tmp_path: Path) -> None:
    pack(tmp_path / "images", three_images())
    store = ImageStore(tmp_path / "images")
    pack(tmp_path / "images", three_images()[:1])
    assert (store.entry(5).width, len(ImageStore(tmp_path / "images"))) == (15, 1)


def test_a_row_that_points_elsewhere_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    pack(tmp_path / "images", three_images())
    path = tmp_path / "images/manifest.arrow"
    names = b"a/7.PNGa/3.PNGa/5.PNG"
    sound = path.read_bytes()
    # The offsets of the names, 0 7 14 21, come before them; the third points beyond the file.
    offsets = np.array([0, 7, 14, 21], np.int32).tobytes()
    assert sound.count(offsets) == sound.count(names) == 1
    path.unlink()
    path.write_bytes(sound.replace(offsets, np.array([0, 7, 2**30, 21], np.int32).tobytes()))
    store = ImageStore(tmp_path / "images")
    assert store.entry(7).file_name == "a/7.PNG"
    with pytest.raises(SohesError, match=r"manifest\.arrow is damaged \(image 3: .*run `sohes pull` again"):
        store.entry(3)
    path.unlink()
    path.write_bytes(sound.replace(b"sha256:", b"\xff" * 7))
    with pytest.raises(SohesError, match=r"is damaged \(.*UTF8.*run `sohes pull` again"):
        ImageStore(tmp_path / "images").with_digests(["sha256:0"])


def test_the_shards_are_tars_that_anyone_can_read(tmp_path: Path) -> None:
    pack(tmp_path / "images", three_images())
    with tarfile.open(tmp_path / "images/images-00000.tar") as tar:
        assert tar.getnames() == ["000000000007.png", "000000000003.png"]
        assert tar.extractfile("000000000003.png").read() == three_images()[1][2]


@pytest.mark.parametrize("name", ["a." + "x" * 200, "a.写真", "\ud83d\udcff.png", "a\n.png", "..", ""])
def test_a_name_of_any_letters_is_packed(tmp_path: Path, name: str) -> None:
    pack(tmp_path / "images", [(7, name, encoded(Image.new("RGB", (10, 20)))), (8, name, b"bad")])
    store = ImageStore(tmp_path / "images")
    assert store.read(7).shape == (20, 10, 3)
    shown = name.encode("utf-8", "backslashreplace").decode()
    assert store.entry(7).file_name == shown
    write_manifest(tmp_path / "images", [store.entry(7)], [], note=f"left out: {name}")
    assert ImageStore(tmp_path / "images").note == f"left out: {shown}"
    with tarfile.open(tmp_path / "images/images-00000.tar") as tar:
        assert tar.getnames()[0].startswith("000000000007")


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    pack(tmp_path / "one", three_images())
    pack(tmp_path / "two", three_images())
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["images-00000.tar", "images-00001.tar", "manifest.arrow", "rejected.jsonl"]
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
    assert ImageStore(tmp_path / "images").image_ids.tolist() == [7, 3, 5]


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
    assert ImageStore(tmp_path / "images").image_ids.tolist() == [7]


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
    manifest = tmp_path / "images/manifest.arrow"
    sound = manifest.read_bytes()
    for damaged in (b"nonsense", sound.replace(b"image_id", b"\x80" * 8)):
        manifest.write_bytes(damaged)
        with pytest.raises(SohesError, match=r"manifest.*run `sohes pull` again"):
            ImageStore(tmp_path / "images")


def test_real_photographs(tmp_path: Path, shared_data: Path) -> None:
    photos = sorted((shared_data / "sa1b_photos").glob("*.jpg"))
    pack(tmp_path / "images", [(i, p.name, p.read_bytes()) for i, p in enumerate(photos, 1)], max_megapixels=100)
    store = ImageStore(tmp_path / "images")
    assert [store.read(i).shape[:2] for i in (1, 4, 6)] == [(1914, 1500), (2250, 1500), (1500, 2250)]
    assert store.read_bytes(4) == photos[3].read_bytes()
