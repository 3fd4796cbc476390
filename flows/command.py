"""What the flows' commands share: their options, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from sohes.errors import SohesError


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--launch` and `--root`."""
    parser.add_argument("--launch", help="a profile of infra/launch/; SOHES_LAUNCH otherwise")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")


def exit_code(work: Callable[[], None]) -> int:
    """Do the work: 0, or 1 after one sentence on stderr, 130 after Ctrl-C."""
    try:
        work()
    except SohesError as error:
        print(f"sohes: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sohes: interrupted", file=sys.stderr)
        return 130
    return 0
