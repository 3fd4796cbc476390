"""Label Studio's JSON: a list of tasks, one an image, with masks as brush strokes.

They are predictions, to look at, correct and accept. The labelling interface they are for:

    <View>
      <Image name="image" value="$image"/>
      <BrushLabels name="label" toName="image"><Label value="entity"/></BrushLabels>
    </View>

A brush stroke is the picture's RGBA bytes, row by row, packed as bits, the highest first (the format `rle-pack` of
thi.ng):

    32 bits         how many bytes there are
    5 bits          bits of a byte, less 1: 7
    4 x 4 bits      four widths for lengths, less 1: 2, 3, 7, 15
    then for each run
    1 bit           1: one byte repeated; 0: bytes as they are
    2 bits          which of the widths
    3, 4, 8, 16     how many bytes, less 1
    8 bits          the byte, or all of them

What a mask covers is 255 in all four channels, the rest 0. `parentID` is Label Studio's own key for the region that a
region belongs to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from sohes.data.sources.source import SUFFIXES
from sohes.data.store.ids import distinct
from sohes.errors import SohesError
from sohes.masks import encode, gate, sample
from sohes.masks.mask_json import Found
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import atomic_path

SOURCE = "label_studio"
WIDTHS = (3, 4, 8, 16)  # bits of a run's length
CHANNELS = 4
SERVED, UPLOADED = "/data/local-files/?", "/data/upload/"  # in the addresses of Label Studio's own photographs

# ---------------------------------------------------------------- write


def write(records: Iterable[ImageRecord], path: Path) -> None:
    """One image is in memory at a time. SohesError, and no file, if an image id occurs twice."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate(distinct(records)):
            result = list(_regions(record.masks))
            sides = {"height": record.masks.height, "width": record.masks.width}  # no other key has them without masks
            task = {
                "data": {"image": record.file_name, "image_id": record.image_id, **sides},
                "predictions": [{"model_version": "sohes", "result": result}],
            }
            file.write((",\n" if number else "\n") + json.dumps(task))
        file.write("]\n")


def _regions(masks: MaskSet) -> Iterator[dict[str, Any]]:
    rows, columns = np.arange(masks.height), np.arange(masks.width)
    for index, (score, parent) in enumerate(zip(masks.scores.tolist(), masks.parents.tolist(), strict=True)):
        rle = packed(sample(masks, index, rows, columns))
        yield {
            "id": f"mask-{index + 1}",
            "type": "brushlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": masks.width,
            "original_height": masks.height,
            "image_rotation": 0,
            "score": score,
            "value": {"format": "rle", "rle": rle, "brushlabels": ["entity"]},
            **({} if parent < 0 else {"parentID": f"mask-{parent + 1}"}),
        }


def packed(mask_HW: np.ndarray) -> list[int]:
    """The bytes of a bool mask's brush stroke."""
    pixels = mask_HW.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    ends = np.append(starts[1:], len(pixels))
    bits = [f"{CHANNELS * len(pixels):032b}{7:05b}", *(f"{width - 1:04b}" for width in WIDTHS)]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        byte, left = ("11111111" if pixels[start] else "00000000"), CHANNELS * (end - start)
        while left:
            length = min(left, 2 ** WIDTHS[-1])
            which = next(i for i, width in enumerate(WIDTHS) if length <= 2**width)
            bits.append(f"1{which:02b}{length - 1:0{WIDTHS[which]}b}{byte}")
            left -= length
    return np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")).tolist()


# ---------------------------------------------------------------- read


def is_task(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("data"), dict)


def read_task(task: Any, path: Path) -> ImageRecord:
    """The masks of one task: those of its annotation, or where nobody has annotated it, of its prediction.

    Brush strokes and polygons are read. SohesError for other regions, for several annotations, and for none.
    """
    if not is_task(task):
        raise SohesError(f"{path} is not a list of Label Studio's tasks: an item has no `data` (got {task!r:.80})")
    data = task["data"]
    name = _photograph(data)
    where = name or f"task {task.get('id')!s:.40}"
    done = [a for a in _objects(task.get("annotations")) if not a.get("was_cancelled")]
    choices = done or _objects(task.get("predictions"))
    if len(choices) != 1:
        raise SohesError(f"{path}: {where} has {len(choices)} annotations: leave one of them")
    regions = [region for region in _objects(choices[0].get("result")) if region.get("type") != "relation"]
    try:
        sizes = {gate.checked_size(region.get("original_height"), region.get("original_width")) for region in regions}
        if len(sizes) > 1:
            raise ValueError(f"regions are of several sizes ({sizes})")
        size = sizes.pop() if sizes else gate.size_of(data)
        annotations = [_annotation(region, size) for region in regions]
    except ValueError as error:
        raise SohesError(f"{path}: a region of {where} cannot be read: {error}: fix or remove it") from None
    image_id = gate.whole(data.get("image_id"))
    found = Found(size, where, path).add(annotations)
    return ImageRecord(-1 if image_id is None else image_id, name, "", found.masks(SOURCE))


def _photograph(data: dict[str, Any]) -> str:
    """Its path as it was before Label Studio took it: served from a folder, or uploaded behind eight hex digits."""
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    images = (
        value for value in texts.values() if value.partition("?")[0].lower().endswith(SUFFIXES) or SERVED in value
    )
    address = texts.get("image") or next(images, "")
    if SERVED in address:
        return parse_qs(urlsplit(address).query).get("d", [""])[0]
    if UPLOADED in address:
        return re.sub("^[0-9a-f]{8}-", "", unquote(PurePosixPath(urlsplit(address).path).name))
    return address


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _annotation(region: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    value = region.get("value")
    kind = region.get("type")
    if not isinstance(value, dict) or kind not in ("brushlabels", "brush", "polygonlabels", "polygon"):
        raise ValueError(f"it is no brush stroke and no polygon (got {kind!r:.40})")
    if kind.startswith("brush"):
        mask_HW = unpacked(value.get("rle"), size)
        segmentation: Any = {"size": list(size), "counts": encode(mask_HW[None])[0]}
    else:
        try:
            percent_K2 = np.asarray(value.get("points"), np.float64).reshape(-1, 2)
        except (TypeError, ValueError):
            raise ValueError("its points are no pairs of numbers") from None
        segmentation = [(percent_K2 * (size[1] / 100, size[0] / 100)).tolist()]
    score = {} if region.get("score") is None else {"score": region["score"]}
    return {"id": region.get("id"), "parent_id": region.get("parentID") or None, "segmentation": segmentation, **score}


def unpacked(rle: Any, size: tuple[int, int]) -> np.ndarray:
    """The (H, W) bool mask of a brush stroke: where its last channel is set. ValueError for one that is damaged."""
    try:
        data = np.asarray(rle)
        if data.ndim != 1 or data.dtype.kind not in "iu" or (data < 0).any() or (data > 255).any():
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError("its rle is no list of bytes") from None
    text = (np.unpackbits(data.astype(np.uint8)) + ord("0")).tobytes().decode()
    total, at = CHANNELS * size[0] * size[1], 0

    def number(width: int) -> int:
        nonlocal at
        at += width
        if at > len(text):
            raise ValueError("its rle is cut short")
        return int(text[at - width : at], 2)

    if (count := number(32)) != total:
        raise ValueError(f"its rle holds {count} bytes, and its size has {total}")
    word = number(5) + 1
    widths = [number(4) + 1 for _ in range(4)]
    runs: list[np.ndarray] = []
    while total:
        repeated = number(1)
        length = 1 + number(widths[number(2)])
        if length > total:
            raise ValueError("a run of its rle goes beyond its end")
        total -= length
        values = [number(word)] if repeated else [number(word) for _ in range(length)]
        runs.append(np.repeat(np.array(values, np.int64) > 0, length if repeated else 1))
    return np.concatenate(runs).reshape(*size, CHANNELS)[..., -1]
