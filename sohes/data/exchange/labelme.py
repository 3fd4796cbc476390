"""LabelMe's JSON, one file an image, to lie beside the photograph.

A part of a mask is a polygon, its holes joined to its outline by bridges (`outlines`); the parts of one mask share
their `group_id`. `score`, `parent_id` and `level` are further keys of a shape, which LabelMe keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sohes.data.exchange.outlines import part_polygons
from sohes.data.exchange.places import Places, placed
from sohes.errors import SohesError
from sohes.masks import gate
from sohes.masks.forest import levels
from sohes.masks.mask_json import Found
from sohes.structures import ImageRecord, MaskSet
from sohes.work.files import write_json

SOURCE = "labelme"
VERSION = "5.5.0"  # whose keys these are


def places(folder: Path) -> Places:
    """Where `write` puts the file of each photograph."""
    return Places(folder, ".json")


def write(records: Iterable[ImageRecord], folder: Path) -> None:
    """A mask without a pixel has no shape."""
    for record, file in placed(records, places(folder)):
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": list(_shapes(record.masks)),
            "imagePath": PurePosixPath(record.file_name).name,  # beside the JSON
            "imageData": None,
            "imageHeight": record.masks.height,
            "imageWidth": record.masks.width,
        }
        write_json(file, content)


def _shapes(masks: MaskSet) -> Iterator[dict[str, Any]]:
    columns = zip(masks.scores.tolist(), masks.parents.tolist(), levels(masks.parents).tolist(), strict=True)
    for number, (parts, (score, parent, level)) in enumerate(zip(part_polygons(masks), columns, strict=True), 1):
        for corners_K2 in parts:
            yield {
                "label": "entity",
                "points": corners_K2.tolist(),
                "group_id": number,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
                "score": score,
                "parent_id": None if parent < 0 else parent + 1,
                "level": level,
            }


def is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read(content: dict[str, Any], path: Path, home: Path) -> ImageRecord:
    """The masks of one file, without an id. home: the folder that its name is a path in.

    Polygons and rectangles are read; shapes of one `group_id` are one mask. SohesError for any other shape.
    """
    try:
        size = gate.size_of({"height": content.get("imageHeight"), "width": content.get("imageWidth")})
    except ValueError as error:
        raise SohesError(f"{path}: its imageHeight and imageWidth: {error}") from None
    named = content.get("imagePath")
    photograph = PureWindowsPath(named).name if isinstance(named, str) else ""  # it takes both slashes
    name = str(PurePosixPath(path.relative_to(home)).parent / (photograph or path.stem))
    masks: dict[Any, dict[str, Any]] = {}
    for place, shape in enumerate(content["shapes"]):
        polygon = _polygon(shape, f"{path}: shape {place + 1}")
        group = gate.whole(shape.get("group_id"))
        key = ("alone", place) if group is None else group
        kept = {name: shape[name] for name in ("score", "parent_id") if shape.get(name) is not None}
        masks.setdefault(key, {"id": group, "segmentation": [], **kept})["segmentation"].append(polygon)
    return ImageRecord(-1, name, "", Found(size, name, path).add(masks.values()).masks(SOURCE))


def _polygon(shape: Any, where: str) -> list[Any]:
    if not isinstance(shape, dict):
        raise SohesError(f"{where} is no object (got {shape!r:.40}): remove it")
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not isinstance(points, list) or not pairs or kind not in ("polygon", "rectangle"):
        raise SohesError(f"{where} is no polygon and no rectangle (got {kind!r:.40}): draw it as one, or remove it")
    if kind == "polygon":
        return points
    if len(points) != 2:
        raise SohesError(f"{where} is a rectangle of {len(points)} corners: give it two opposite ones")
    (left, top), (right, bottom) = points
    return [[left, top], [right, top], [right, bottom], [left, bottom]]
