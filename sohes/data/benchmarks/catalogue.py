"""All annotated data sets by their names in `sohes score --benchmark`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from sohes.data.benchmarks import (
    ade20k,
    bsds500,
    coco,
    coco_panoptic,
    entityseg,
    lvis,
    paco,
    partimagenet,
    pascal_part,
    sa1b,
)
from sohes.data.store.decode import decode_image, decode_stored
from sohes.errors import SohesError
from sohes.structures import ImageRecord

MAX_MEGAPIXELS = 200.0  # more than any benchmark's photograph has


class Benchmark(Protocol):
    """What a reader's module offers. Its docstring states the protocol: subset, what counts as an entity, frame.

    INFO: where to get the data set, and what to put where.
    """

    NAME: str
    INFO: str
    __doc__: str | None

    def read_benchmark(self, root: Path) -> Iterator[ImageRecord]:
        """The ground truth of the unpacked official download in `root`, without digests, all scores 1."""
        ...

    def read_image(self, root: Path, file_name: str) -> bytes:
        """The encoded photograph of a record, in whose stored pixels the masks are drawn."""
        ...


_MODULES = (coco, lvis, ade20k, entityseg, sa1b, partimagenet, paco, coco_panoptic, pascal_part, bsds500)
BENCHMARKS: dict[str, Benchmark] = {module.NAME: cast(Benchmark, module) for module in _MODULES}


def benchmark(name: str) -> Benchmark:
    """A reader by its name; SohesError lists the names there are."""
    if name not in BENCHMARKS:
        raise SohesError(f"no benchmark is called {name}: there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def read_photographs(name: str, root: Path, images: int) -> Iterator[tuple[ImageRecord, np.ndarray]]:
    """The first `images` annotated images of a benchmark, each with its (H, W, 3) uint8 pixels as annotated."""
    reader = benchmark(name)
    for _, record in zip(range(images), reader.read_benchmark(root), strict=False):
        size = record.masks.height, record.masks.width
        yield record, decode_photograph(reader.read_image(root, record.file_name), size)


def decode_photograph(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 pixels of what `read_image` gives, in the frame of the masks.

    size: (height, width) of the masks. Where only the photograph turned upright by its EXIF has it, that is the frame;
    everywhere else it is the photograph as stored.
    """
    stored, orientation = decode_stored(data, max_megapixels=MAX_MEGAPIXELS)
    if orientation >= 5 and size == stored.shape[1::-1] and size != stored.shape[:2]:
        return decode_image(data, max_megapixels=MAX_MEGAPIXELS, apply_exif=True)
    return stored


def describe(name: str) -> str:
    """The protocol of a benchmark, where to get it, and what to put where."""
    found = benchmark(name)
    return f"{name}\n\n{(found.__doc__ or '').strip()}\n\n{found.INFO}"


def is_published_protocol(name: str, root: Path) -> bool:
    """Whether the folder holds the set that published figures of that name are on."""
    return name != ade20k.NAME or ade20k.is_challenge(root)
