"""Where a data set is, as given on the command line: NAME=DIR."""

from __future__ import annotations

from pathlib import Path

from sohes.errors import SohesError


def name_and_folder(text: str) -> tuple[str, Path]:
    """The two halves of `NAME=DIR`, with `~` for the home folder. SohesError if one of them is missing."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise SohesError(f"a data set is given as NAME=DIR, such as {name or 'coco'}=~/{name or 'coco'} (got {text})")
    return name, Path(folder).expanduser()
