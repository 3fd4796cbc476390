"""Commands whose work is outside this package: `flows`, which drives DVC and Prefect."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by `python -m MODULE ...`, which inherits its streams, signals and exit code."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
