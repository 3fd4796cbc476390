"""Where a data set is, as given on the command line: NAME=DIR; and which files make it up."""

from __future__ import annotations

from pathlib import Path

from sohes.data.sources.source import SUFFIXES
from sohes.errors import SohesError
from sohes.work.walk import walk

READ = (*SUFFIXES, ".json", ".mat", ".tar")  # what readers open: photographs, annotations and packs


def name_and_folder(text: str) -> tuple[str, Path]:
    """The two halves of `NAME=DIR`, with `~` for the home folder. SohesError if one of them is missing."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise SohesError(f"a data set is given as NAME=DIR, such as {name or 'coco'}=~/{name or 'coco'} (got {text})")
    return name, Path(folder).expanduser()


def files_of(folder: Path) -> list[Path]:
    """The files below a folder that a reader may open, as they lie now; `folder` itself if it is a file or missing.

    A download that is still coming, an archive that was unpacked or a note beside them is none of them.
    """
    if not folder.is_dir():
        return [folder]
    return [folder / name for name in walk(folder).files if name.lower().endswith(READ)]
