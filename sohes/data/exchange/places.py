"""Where the files of an export lie that are named after their photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sohes.data.store.ids import distinct
from sohes.errors import SohesError
from sohes.structures import ImageRecord


def placed(records: Iterable[ImageRecord], folder: Path, suffix: str) -> Iterator[tuple[ImageRecord, Path]]:
    """Each record and its file: the photograph's path below `folder`, with another suffix.

    SohesError for a name that leads out of the folder, for anybody may have written it, for two that would share a
    file, as `a.jpg` and `a.png` would, and for an image id that occurs twice.
    """
    taken: dict[str, str] = {}
    for record in distinct(records):
        name = PurePosixPath(record.file_name.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or not name.name or "\0" in record.file_name:
            raise SohesError(f"{record.file_name!r} names no file below {folder}: give the image a relative path")
        file = name.with_suffix(suffix)
        other = taken.setdefault(str(file).casefold(), record.file_name)  # some file systems ignore case
        if other is not record.file_name:
            raise SohesError(f"{other} and {record.file_name} would share {folder / file}: rename one, or take coco")
        yield record, folder / file
