"""PNG id maps: 16-bit pictures whose pixels are masks' ids, 0 for none.

    cat.ids.json         the size, and each mask's id, map, score, parent_id, level and source
    cat.0.png            whole entities, as far as they do not overlap
    cat.1.png ...        masks that overlap those in all maps before

A mask lies in the first map in which its pixels are free, the upper levels first, so nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from sohes.data.benchmarks.coco import read_json
from sohes.data.benchmarks.layout import read_png
from sohes.data.exchange.places import Places, placed
from sohes.data.imaging import encode_as
from sohes.errors import SohesError
from sohes.masks import boxes_xywh, gate, sample
from sohes.masks.forest import levels
from sohes.masks.mask_json import Found
from sohes.masks.packed import join, pack
from sohes.masks.stretch import encode_stretched
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import write_file, write_json

SOURCE = "id_maps"
SUFFIX = ".ids.json"
MOST = 2**16 - 1  # masks of an image


def places(folder: Path) -> Places:
    """Where `write` puts the file of each photograph."""
    return Places(folder, SUFFIX)


def write(records: Iterable[ImageRecord], folder: Path) -> None:
    """SohesError for an image with more masks than 16 bits can count."""
    for record, file in placed(records, places(folder)):
        masks = record.masks
        if len(masks) > MOST:
            raise SohesError(f"{record.file_name} has {len(masks)} masks, more than {MOST}: take another format")
        maps, of_masks = _layers(masks)
        for number, map_HW in enumerate(maps):
            write_file(_picture(file, number), encode_as(".png", map_HW))
        depths = levels(masks.parents).tolist()
        columns = zip(of_masks, masks.scores.tolist(), masks.parents.tolist(), depths, masks.sources, strict=True)
        content = {
            "image": {
                "image_id": record.image_id,
                "file_name": record.file_name,
                "height": masks.height,
                "width": masks.width,
            },
            "maps": len(maps),
            "masks": [
                {
                    "id": i,
                    "map": place,
                    "score": score,
                    "parent_id": None if parent < 0 else parent + 1,
                    "level": level,
                    "source": source,
                }
                for i, (place, score, parent, level, source) in enumerate(columns, 1)
            ],
        }
        write_json(file, content)  # last: it says which maps belong together


def _picture(file: Path, number: int) -> Path:
    return file.with_name(f"{file.name.removesuffix(SUFFIX)}.{number}.png")


def _layers(masks: MaskSet) -> tuple[list[np.ndarray], list[int]]:
    """(H, W) uint16 maps, at least one, and the map of each mask."""
    maps = [np.zeros((masks.height, masks.width), np.uint16)]
    of_masks = [0] * len(masks)
    boxes = boxes_xywh(masks).astype(int).tolist()
    for index in np.argsort(levels(masks.parents), kind="stable").tolist():
        x, y, width, height = boxes[index]
        box = slice(y, y + height), slice(x, x + width)
        mask_hw = sample(masks, index, np.arange(y, y + height), np.arange(x, x + width))
        place = next((k for k, map_HW in enumerate(maps) if not map_HW[box][mask_hw].any()), len(maps))
        if place == len(maps):
            maps.append(np.zeros_like(maps[0]))
        maps[place][box][mask_hw] = index + 1
        of_masks[index] = place
    return maps, of_masks


def read(path: Path) -> ImageRecord:
    """The masks that one `.ids.json` lists. SohesError if it or one of its maps cannot be read."""
    content = read_json(path)
    image = content.get("image") if isinstance(content, dict) else None
    listed: Any = content.get("masks") if isinstance(content, dict) else None
    if not isinstance(image, dict) or not isinstance(listed, list) or not all(isinstance(m, dict) for m in listed):
        raise SohesError(f"{path} lists no id maps: it needs `image` and `masks`")
    try:
        size = gate.size_of(image)
    except ValueError as error:
        raise SohesError(f"{path}: its image: {error}") from None
    name, image_id = image.get("file_name"), gate.whole(image.get("image_id"))
    if not isinstance(name, str):
        name = str(PurePosixPath(path.name.removesuffix(SUFFIX)))
    maps: dict[int, np.ndarray] = {}
    boxes: dict[int, list[tuple[slice, slice] | None]] = {}  # of the ids from 1 in each map
    annotations, drawn = [], []
    for mask in listed:
        number, place = gate.whole(mask.get("id")), gate.whole(mask.get("map"))
        if number is None or place is None or not 0 < number <= MOST:
            raise SohesError(f"{path}: a mask needs id and map as whole numbers (got {mask!r:.80})")
        if place not in maps:
            maps[place] = _map(_picture(path, place), size)
            boxes[place] = find_objects(maps[place].astype(np.int32))
        rows, columns = (boxes[place][number - 1 : number] or [None])[0] or (slice(0, 0), slice(0, 0))
        cut_hw = maps[place][rows, columns] == number
        drawn.append(pack(cut_hw[None], size=size, origin=(rows.start, columns.start)))
        annotations.append(mask)
    rles = encode_stretched(join(drawn, size=size), size)
    for annotation, counts in zip(annotations, rles, strict=True):
        annotation["segmentation"] = {"size": list(size), "counts": counts}
    masks = Found(size, name, path).add(annotations).masks(SOURCE)
    return ImageRecord(-1 if image_id is None else image_id, name, "", masks)


def _map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) ids."""
    try:
        map_HW = read_png(path, size)
    except FileNotFoundError:
        raise SohesError(f"{path} is missing: copy the maps beside their {SUFFIX}") from None
    if map_HW.ndim != 2:
        raise SohesError(f"{path} has several channels, an id map has one: export it again")
    return map_HW
