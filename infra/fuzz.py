"""Foreign files, damaged in every way, through every reader: a record or a sentence, never more.

    python -m infra.fuzz [SECONDS [SEED]]

The same seed damages the same files in the same order; without one they are others each time.

Each reader gets its share of the time in a process of its own. It fails on an exception that is no SohesError, on a
file that takes more than HANG seconds, also in C code, and on more than MEMORY bytes beyond what the imports took.
Hypothesis makes the smallest file that still fails; it lies in the folder that is named then.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import io
import json
import multiprocessing
import resource
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from sohes.data.benchmarks import ade20k, bsds500, lvis, own, paco, pascal_part, sa1b
from sohes.data.benchmarks.predictions import coco_json
from sohes.data.benchmarks.predictions.read import read_records
from sohes.data.exchange import id_maps, label_studio, labelme, yolo
from sohes.data.sources.unpack import iter_members
from sohes.data.store.decode import decode_image
from sohes.data.store.labels import read_shard, write_shard
from sohes.downstream.sets import coco_panoptic as panoptic_classes
from sohes.errors import SohesError
from sohes.launch.profile import load_profile
from sohes.masks import mask_json, mask_set
from sohes.params import load_params
from sohes.project import TEMPLATE
from sohes.structures import ImageRecord

SECONDS = 600
HANG = 20  # seconds that one small file may take on a busy machine
MEMORY = 500 * 2**20
H, W = 20, 30

# ---------------------------------------------------------------- damage

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 50),
    st.sampled_from(
        [2**31, 2**32, 2**63, -(2**70), 1e308, float("nan"), float("inf"), 0.5, "", "7", "a.png", "../x", "\0"]
    ),
    st.text("04Zb'oé\ud800", max_size=8),
    st.lists(st.one_of(st.none(), st.integers(-5, 700), st.floats(-9, 50), st.lists(st.integers(0, 30))), max_size=9),
    st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), st.integers(0, 9), max_size=3),
)
WHERE = st.lists(st.tuples(st.integers(0, 2**16), ODD), min_size=1, max_size=4)
BYTES = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "drop", "swell"]), st.integers(0, 2**16), st.binary(max_size=8)),
    min_size=1,
    max_size=5,
)


def damaged_value(content: Any, changes: Iterable[tuple[int, Any]]) -> Any:
    """The content with some of its places, at any depth, replaced."""
    content = copy.deepcopy(content)
    for number, odd in changes:
        places: list[tuple[Any, Any]] = []
        _collect(content, places)
        if places:
            holder, key = places[number % len(places)]
            holder[key] = odd
    return content


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        places.append((value, key))
        _collect(item, places)


def damaged_bytes(data: bytes, changes: Iterable[tuple[str, int, bytes]]) -> bytes:
    """The bytes with some set, cut off, put in, left out or repeated."""
    for kind, number, extra in changes:
        at = number % (len(data) + 1)
        data = {
            "set": data[:at] + extra + data[at + len(extra) :],
            "cut": data[:at],
            "insert": data[:at] + extra + data[at:],
            "drop": data[:at] + data[at + len(extra) :],
            "swell": data[:at] + (data[at : at + 9] + extra) * 200 + data[at:],
        }[kind]
    return data


# ---------------------------------------------------------------- readers, each with a sound file

SQUARE = [3.0, 2.0, 20.0, 2.0, 20.0, 15.0, 3.0, 15.0]
DRAWN = np.zeros((2, H, W), bool)
DRAWN[0, 2:15, 3:20] = DRAWN[1, 4:9, 5:12] = True
FOUND = ImageRecord(1, "a.png", "", mask_set(DRAWN, parents=np.array([-1, 0])))
IMAGE = {"id": 1, "file_name": "a.png", "height": H, "width": W}
COCO = {
    "images": [IMAGE],
    "annotations": [
        {"id": 1, "image_id": 1, "iscrowd": 0, "area": 221.0, "segmentation": [SQUARE]},
        {"id": 2, "image_id": 1, "iscrowd": 1, "segmentation": {"size": [H, W], "counts": [60, 200, 340]}},
        *mask_json.coco_annotations(FOUND.masks, 1, first_id=3),
    ],
}
SEGMENTS = [{"id": 7, "iscrowd": 0, "category_id": 1, "bbox": [3, 2, 17, 13], "area": 221}, {"id": 9, "category_id": 1,
            "bbox": [0, 0, 5, 5], "iscrowd": 0}]  # fmt: skip
PANOPTIC = {
    "images": [IMAGE],
    "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": SEGMENTS}],
    "categories": [{"id": 1, "name": "cup", "isthing": 1}],
}
ADE = {"annotation": {"filename": "ADE_val_1.jpg", "imsize": [H, W, 3], "object": [
       {"id": 0, "instance_mask": "a.png", "parts": {"ispartof": []}}, {"id": 1, "instance_mask": "a.png",
        "parts": {"ispartof": 0}}]}}  # fmt: skip

Reader = Callable[[Path, Any], object]


def as_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def as_bytes(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def encoded(kind: str, pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def mat(**variables: Any) -> bytes:
    data = io.BytesIO()
    scipy.io.savemat(data, variables)
    return data.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def tarred(mode: str, files: Mapping[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def shard(rows: Any, path: Path) -> None:
    write_shard(path, [FOUND])
    schema = pq.read_schema(path)
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, OverflowError):  # no such file can be written
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
    read_shard(path)


def panoptic(folder: Path, content: Any, png: bytes | None = None) -> None:
    colours = np.stack([DRAWN[0] * 7 + ~DRAWN[0] * 9, DRAWN[0] * 0, DRAWN[0] * 0], 2).astype(np.uint8)
    as_bytes(folder / "panoptic/a.png", encoded("PNG", colours) if png is None else png)
    as_bytes(folder / "images/a.png", encoded("PNG", colours))
    path = as_json(folder / "panoptic.json", content)
    with contextlib.suppress(SohesError):
        list(own.read(path))
    classes = panoptic_classes.open_set(folder)
    for key in (*classes.train, *classes.val):
        classes.read(key)


def ade(folder: Path, content: Any) -> None:
    as_bytes(folder / "images/ADE/validation/a/a.png", encoded("PNG", (DRAWN[0] * 255).astype(np.uint8)))
    as_json(folder / "images/ADE/validation/a/ADE_val_1.json", content)
    list(ade20k.read_benchmark(folder))


def bsds(folder: Path, data: bytes) -> None:
    as_bytes(folder / "groundTruth/1.mat", data)
    list(bsds500.read_benchmark(folder))


def pascal(folder: Path, data: bytes) -> None:
    as_bytes(folder / "2008_000002.mat", data)
    as_bytes(folder / "JPEGImages/2008_000002.jpg", encoded("JPEG", (DRAWN[0] * 255).astype(np.uint8)))
    list(pascal_part.read_benchmark(folder))


def archive(folder: Path, data: bytes) -> None:
    for _, member in iter_members(as_bytes(folder / "a.tar", data), lambda _: True):
        if isinstance(member, bytes):
            decode_image(member, max_megapixels=1, apply_exif=True)


def pack(folder: Path, data: bytes) -> None:
    path = as_bytes(folder / "sa_000000.tar", data)
    with contextlib.suppress(SohesError):
        list(sa1b.read_benchmark(path))
    sa1b.read_image(path, "sa_1.jpg")


def in_folder(benchmark: Any, name: str) -> Reader:
    return lambda folder, content: list(benchmark.read_benchmark(as_json(folder / name, content).parent))


def in_labelme(folder: Path, content: Any) -> None:
    path = as_json(folder / "a.json", content)
    if labelme.is_labelme(content):
        labelme.read(content, path, folder)


def with_maps(name: str) -> Reader:
    """A file in the place of the sound one beside the others of its export."""

    def read(folder: Path, content: Any) -> None:
        id_maps.write([FOUND], folder)
        (as_bytes if isinstance(content, bytes) else as_json)(folder / name, content)
        list(read_records(folder))

    return read


def exported(write: Any, name: str) -> Any:
    """A sound file of an export, as JSON or bytes."""
    with tempfile.TemporaryDirectory() as folder:
        write([FOUND], Path(folder))
        path = Path(folder) / name
        return json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()


def yaml_profile(folder: Path, data: bytes) -> None:
    as_bytes(folder / "infra/launch/x.yaml", data)
    load_profile(folder / "infra/launch", "x")


def readers() -> dict[str, tuple[Any, Reader]]:
    """A sound file of each kind, as JSON or bytes, and what reads it."""
    with tempfile.TemporaryDirectory() as name:
        write_shard(Path(name) / "s.parquet", [FOUND])
        parquet, rows = (Path(name) / "s.parquet").read_bytes(), pq.read_table(Path(name) / "s.parquet").to_pylist()
    region = {"Segmentation": DRAWN[0].astype(np.uint16) + 1}
    part = {"class": "cup", "mask": DRAWN[0], "parts": [{"part_name": "ear", "mask": DRAWN[1]}]}
    sizes = {1: (H, W)}
    photographs = dict.fromkeys(("a.png", "b/c.png"), encoded("PNG", DRAWN[0]))
    of_pack = {"sa_1.json": json.dumps(mask_json.sa1b(FOUND.masks, "sa_1.jpg", 1)).encode(), "sa_1.jpg": b"photograph"}
    by_url = {**COCO, "images": [{"id": 1, "coco_url": "http://a/val2017/1.jpg", "height": H, "width": W}]}
    of_objects = {**COCO, "annotations": [{**one, "obj_ann_id": 1} for one in COCO["annotations"]]}
    profile = Path(__file__).parent / "launch"
    rgb = np.repeat((DRAWN[0] * 200).astype(np.uint8)[..., None], 3, 2)
    return {
        "COCO": (COCO, lambda folder, content: list(own.read(as_json(folder / "a.json", content)))),
        "COCO results": (
            [{**one, "score": 0.5} for one in COCO["annotations"]],
            lambda folder, content: list(coco_json.read(as_json(folder / "a.json", content), sizes)),
        ),
        "COCO text": (
            json.dumps(COCO).encode(),
            lambda folder, data: list(coco_json.read(as_bytes(folder / "a.json", data), sizes)),
        ),
        "COCO panoptic": (PANOPTIC, panoptic),
        "panoptic PNG": (encoded("PNG", rgb), lambda folder, data: panoptic(folder, PANOPTIC, data)),
        "SA-1B": (
            mask_json.sa1b(FOUND.masks, "a.png", 1),
            lambda folder, content: sa1b.record(json.dumps(content).encode(), folder / "sa_1.json"),
        ),
        "LabelMe": (exported(labelme.write, "a.json"), in_labelme),
        "Label Studio": (
            exported(lambda records, folder: label_studio.write(records, folder / "tasks.json"), "tasks.json"),
            lambda folder, content: list(read_records(as_json(folder / "tasks.json", content))),
        ),
        "YOLO": (
            exported(yolo.write, "labels/a.txt"),
            lambda folder, data: list(yolo.read(as_bytes(folder / "a.txt", data).parent, [FOUND])),
        ),
        "id maps": (exported(id_maps.write, "a.ids.json"), with_maps("a.ids.json")),
        "id map": (exported(id_maps.write, "a.1.png"), with_maps("a.1.png")),
        "ADE20K": (ADE, ade),
        "Parquet": (parquet, lambda folder, data: read_shard(as_bytes(folder / "s.parquet", data))),
        "Parquet rows": (rows, lambda folder, content: shard(content, folder / "s.parquet")),
        "BSDS500 .mat": (mat(groundTruth=[region, region]), bsds),
        "Pascal-Part .mat": (mat(anno={"imname": "2008_000002", "objects": [part]}), pascal),
        "params.yaml": (
            TEMPLATE.params.read_bytes(),
            lambda folder, data: load_params(as_bytes(folder / "p.yaml", data)),
        ),
        "launch profile": (next(iter(sorted(profile.glob("*.yaml")))).read_bytes(), yaml_profile),
        **{
            f"{kind} photograph": (
                encoded(kind, rgb),
                lambda _, data: decode_image(data, max_megapixels=1, apply_exif=True),
            )
            for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
        },
        "zip": (zipped(photographs), archive),
        "tar": (tarred("w", photographs), archive),
        "tar.gz": (tarred("w:gz", photographs), archive),
        "SA-1B pack": (tarred("w:gz", of_pack), pack),
        "LVIS": (by_url, in_folder(lvis, "lvis_v1_val.json")),
        "PACO": (of_objects, in_folder(paco, "paco_lvis_v1_val.json")),
    }


# ---------------------------------------------------------------- run


def fuzz(name: str, seconds: float, folder: str, first_seed: int | None) -> None:
    """One reader, in this process: which ends with an error if the reader fails."""
    sound, read = readers()[name]
    is_bytes = isinstance(sound, bytes)
    read(Path(folder), sound)
    used = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line)
    resource.setrlimit(resource.RLIMIT_AS, (used * 1024 + MEMORY, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    deadline, examples = time.monotonic() + seconds, 0

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(BYTES if is_bytes else WHERE)
    def try_one(changes: Any) -> None:
        nonlocal examples
        examples += 1
        faulthandler.dump_traceback_later(HANG, exit=True)
        with contextlib.suppress(SohesError):
            read(Path(folder), damaged_bytes(sound, changes) if is_bytes else damaged_value(sound, changes))
        faulthandler.cancel_dump_traceback_later()

    while time.monotonic() < deadline:
        try_one() if first_seed is None else seed(first_seed + examples)(try_one)()
    print(f"fuzz: {name}: {examples} files", flush=True)


def main(seconds: float = SECONDS, first_seed: int | None = None) -> int:
    """The number of readers that failed."""
    failed = []
    names = list(readers())
    for name in names:
        folder = tempfile.mkdtemp(prefix="sohes-fuzz-")
        given_to = name, seconds / len(names), folder, first_seed
        process = multiprocessing.get_context("fork").Process(target=fuzz, args=given_to)
        process.start()
        process.join()
        if process.exitcode:
            failed.append(name)
            print(f"fuzz: {name} FAILED (exit code {process.exitcode}): the file lies in {folder}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*(read(word) for read, word in zip((float, int), sys.argv[1:], strict=False))))
