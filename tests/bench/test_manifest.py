import os

from sohes.bench.manifest import bench_manifest, synthetic
from sohes.data.store.images import ImageStore
from sohes.data.store.pack import write_batches

IMAGES = int(os.environ.get("SOHES_TEST_ROWS", 1_000_000))  # 11_000_000 for all of SA-1B: 1.6 GB in TMPDIR


def test_a_manifest_of_millions_opens_at_once_and_gives_any_row():
    result = bench_manifest(images=IMAGES)
    assert result["name"] == f"manifest-{IMAGES}"
    assert result["open_seconds"] < 1
    assert result["open_mb"] < 200
    assert result["sample_ms"] < 1
    assert result["order_ms"] < 1
    assert result["file_mb"] * 2**20 > 100 * IMAGES  # as long as a real one


def test_the_rows_are_those_of_a_store(tmp_path):
    write_batches(tmp_path / "manifest.arrow", synthetic(70_000))
    store = ImageStore(tmp_path)
    assert len(store) == 70_000
    entry = store.entry(2 * 69_999 + 1)
    assert (entry.file_name, entry.shard, len(entry.digest)) == ("sa_139999.jpg", "images-00006.tar", 71)
