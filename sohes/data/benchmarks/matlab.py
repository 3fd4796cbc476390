"""Variables of MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import scipy.io

from sohes.errors import SohesError


def read(path: Path, name: str, *, what: str) -> Any:
    """A variable of a MATLAB file, structs as dictionaries. SohesError, with `what` it is not, if there is none."""
    try:
        return scipy.io.loadmat(path, simplify_cells=True, variable_names=[name])[name]
    except Exception as error:  # scipy raises a dozen kinds of exceptions on damaged files
        raise SohesError(f"{path} is not {what}: {error or type(error).__name__}") from None
