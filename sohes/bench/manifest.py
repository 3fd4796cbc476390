"""Seconds and memory of opening the manifest of many images, of one row of it, and of an epoch's order."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from sohes.bench.own_process import in_own_process
from sohes.data.store.images import MANIFEST_SCHEMA, ImageStore
from sohes.data.store.pack import ROWS_PER_BATCH, write_batches
from sohes.project import MANIFEST
from sohes.train.loading import from_epochs
from sohes.work.memory import peak_bytes

PER_TAR = 11_150  # images in a pack of SA-1B
LOOKS = 2000


def bench_manifest(*, images: int = 1_000_000) -> dict[str, str | float]:
    """A store of `images` synthetic rows, written to TMPDIR (150 bytes each); keys name, open_seconds, open_mb,
    sample_ms, sample_ms_worst, order_ms, mb, file_mb.

    open_mb: growth of the process's own memory (not what it maps, which all processes share) by opening.  mb: after
    the samples and an epoch's begin.  sample_ms: the id at a random place and its row, the median; worst: of 99 in 100.
    order_ms: the next image of a shuffled epoch, the mean, with the order's preparation. Lower than bars of 1 s, 200
    MB and 1 ms at 11 million.
    """
    with tempfile.TemporaryDirectory() as name:
        write_batches(Path(name) / MANIFEST, synthetic(images))
        return in_own_process(_measure, Path(name), images)


def synthetic(images: int) -> Iterator[pa.RecordBatch]:
    """The rows of a store of SA-1B's form: rising ids, digests that cannot be compressed."""
    random = np.random.default_rng(0)
    for first in range(0, images, ROWS_PER_BATCH):
        ids = np.arange(first, min(first + ROWS_PER_BATCH, images)) * 2 + 1
        n = len(ids)
        digits = random.bytes(32 * n).hex()
        columns = [
            ids, [f"sa_{i}.jpg" for i in ids.tolist()], [f"sha256:{digits[i : i + 64]}" for i in range(0, 64 * n, 64)],
            np.full(n, 1500), np.full(n, 2250), [f"images-{i // 2 // PER_TAR:05d}.tar" for i in ids.tolist()],
            ids // 2 % PER_TAR * 900_000, np.full(n, 900_000), np.zeros(n, bool),
        ]  # fmt: skip
        arrays = [pa.array(column, field.type) for column, field in zip(columns, MANIFEST_SCHEMA, strict=True)]
        yield pa.record_batch(arrays, schema=MANIFEST_SCHEMA)


def _measure(folder: Path, images: int) -> dict[str, str | float]:
    before = _own_mb()
    began = time.perf_counter()
    store = ImageStore(folder)
    opened, open_mb = time.perf_counter() - began, _own_mb() - before
    random = np.random.default_rng(1)
    places = random.integers(images, size=LOOKS)
    samples = []
    for place in places:
        began = time.perf_counter()
        store.entry(int(store.image_ids[place]))
        samples.append(time.perf_counter() - began)
    began = time.perf_counter()
    for place in range(LOOKS):
        next(from_epochs(place, images, 0))
    order = (time.perf_counter() - began) / LOOKS
    return {
        "name": f"manifest-{images}",
        "open_seconds": round(opened, 4),
        "open_mb": round(open_mb, 1),
        "sample_ms": round(1e3 * statistics.median(samples), 4),
        "sample_ms_worst": round(1e3 * float(np.quantile(samples, 0.99)), 4),
        "order_ms": round(1e3 * order, 4),
        "mb": round(_own_mb() - before, 1),
        "file_mb": round((folder / MANIFEST).stat().st_size / 2**20, 1),
    }


def _own_mb() -> float:
    """Memory of this process that no file backs; the peak of all where the system does not tell."""
    try:
        resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return peak_bytes() / 2**20
