"""Where the files of an unpacked download lie, and what to say if they do not."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sohes.data.names import Names, one_ends_with_the_other
from sohes.errors import SohesError
from sohes.masks import gate
from sohes.work.walk import walk


def find(root: Path, *places: str, name: str, remedy: str | None = None) -> Path:
    """The first of the `places` (relative to `root`) that exists. SohesError names them all and the remedy, which for a
    benchmark is `sohes benchmark-info`."""
    for place in places:
        if (Path(root) / place).exists():
            return Path(root) / place
    remedy = remedy or f"`sohes benchmark-info {name}` says what to put where"
    raise SohesError(f"{root} does not hold {name}: there is no {' or '.join(places)} in it; {remedy}")


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder whose names match, in the order of their `number`s; errors as in `named_below`."""
    return sorted(named_below(folder, pattern), key=lambda file: number(file.name))


def named_below(folder: Path, pattern: str) -> list[Path]:
    """The files below a folder whose names match, in the order of a walk.

    SohesError if a place there cannot be looked into: a benchmark with images missing gives another figure.
    """
    found = walk(folder)
    if found.unread:
        place, reason = next(iter(found.unread.items()))
        raise SohesError(f"{Path(folder) / place} cannot be looked into ({reason}): fix its permissions, or remove it")
    return [Path(folder) / name for name in found.files if fnmatch.fnmatchcase(PurePosixPath(name).name, pattern)]


def read_file(root: Path, *folders: str, name: str) -> bytes:
    """The bytes of the file that `find_file` finds. SohesError if there is none."""
    place = find_file(root, *folders, name=name)
    if place is None:
        looked = f" (looked in {', '.join(folders)} and itself)" if folders else ", or several could be it"
        raise SohesError(f"there is no photograph {name} in {root}{looked}")
    return place.read_bytes()


def find_file(root: Path, *folders: str, name: str) -> Path | None:
    """The file `name` in the first of the `folders` that has it, or in `root` itself; None if there is none.

    If none has it under this path, it may lie further down, or `name` may be as another tool writes it: with other
    slashes, case or escapes, or more folders. Then None also if several could be it. A folder is walked once a process.
    """
    places = [Path(root) / folder for folder in (*folders, ".")]
    for place in places:
        if (place / name).is_file():
            return place / name
    for place in places:
        found = _names(place).find(name)
        if found is not None and one_ends_with_the_other(found, name):
            return place / found
    return None


@lru_cache(8)
def _names(folder: Path) -> Names:
    return Names(walk(folder).files if folder.is_dir() else ())


def photographs(*folders: str) -> Callable[[Path, str], bytes]:
    """The `read_image` of a benchmark whose photographs lie in these folders, the first that has one, or in its root.

    It gives the encoded photograph as stored: EXIF rotation must not be applied to it.
    """
    return lambda root, file_name: read_file(root, *folders, name=file_name)


def read_png(path: Path, size: tuple[int, int] | None = None, *, mode: str | None = None) -> np.ndarray:
    """The pixels of a PNG as stored, or converted to a mode of Pillow's; `size`: the (height, width) it should have.

    FileNotFoundError if there is none. SohesError for a damaged one or another size, before a pixel is decoded.
    """
    try:
        with Image.open(path, formats=["PNG"]) as png:
            width, height = png.size
            if height * width > gate.MOST_PIXELS or (size or (height, width)) != (height, width):
                raise SohesError(
                    f"the annotation {path} is {width} x {height}, its image "
                    + (f"{size[1]} x {size[0]}" if size else "cannot be that large")
                )
            return np.asarray(png if mode is None else png.convert(mode))
    except (FileNotFoundError, SohesError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds of exceptions on damaged files
        raise SohesError(f"the annotation {path} cannot be read: {error or type(error).__name__}") from None


def image(file_name: str, size: tuple[int, ...]) -> dict[str, Any]:
    """An image of (height, width) as COCO's JSON names one, with its `number` for an id."""
    return {"id": number(file_name), "file_name": file_name, "height": size[0], "width": size[1]}


def number(name: str) -> int:
    """An image id from the digits of its file's name: the same in every subset of the data set."""
    digits = re.sub(r"\D", "", Path(name).stem)
    if not digits:
        raise SohesError(f"the file name {name} has no digit to make an image id of: keep the official names")
    return int(digits)
