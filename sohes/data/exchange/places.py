"""Where the files of an export lie that are named after their photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sohes.data.store.ids import distinct
from sohes.errors import SohesError
from sohes.structures import ImageRecord


class Places:
    """The files of an export into `folder`: the photograph's path below it, with another suffix."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix
        self._taken: dict[str, str] = {}

    def take(self, file_name: str) -> Path:
        """The file of one more photograph.

        SohesError for a name that leads out of the folder, for anybody may have written it, and for one that would
        share a file with another, as `a.jpg` and `a.png` would.
        """
        name = PurePosixPath(file_name.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or not name.name or "\0" in file_name:
            raise SohesError(f"{file_name!r} names no file below {self.folder}: give the image a relative path")
        file = name.with_suffix(self.suffix)
        key = str(file).casefold()  # some file systems ignore case
        if key in self._taken:
            raise SohesError(
                f"{self._taken[key]} and {file_name} would share {self.folder / file}: rename one, or take coco"
            )
        self._taken[key] = file_name
        return self.folder / file


def placed(records: Iterable[ImageRecord], places: Places) -> Iterator[tuple[ImageRecord, Path]]:
    """Each record and its file. SohesError as `Places.take` raises it, and for an image id that occurs twice."""
    return ((record, places.take(record.file_name)) for record in distinct(records))
