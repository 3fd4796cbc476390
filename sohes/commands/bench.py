"""`sohes bench`: what a part of the method costs, as one JSON object."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from enum import StrEnum
from typing import Annotated, Any

import typer

bench = typer.Typer(add_completion=False)
Bench = StrEnum(
    "Bench", "cluster nms explore hierarchy loss score decode launch manifest methods segment stream train viewer"
)


# Its options are those of the measuring function, which reads them itself.
@bench.command(
    "bench",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def _bench(context: typer.Context, name: Annotated[Bench, typer.Argument(help="What to measure.")]) -> None:
    """Measure one part of the method.

    The last line is a JSON object. `sohes bench NAME --help` lists its options.

    Example: sohes bench cluster --grid 128
    """
    measure = getattr(importlib.import_module(f"sohes.bench.{name.value}"), f"bench_{name.value}")

    @functools.wraps(measure)
    def measure_and_print(*arguments: Any, **options: Any) -> None:
        print(json.dumps(measure(*arguments, **options)))

    tool = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    reference = " --reference" if "reference" in inspect.signature(measure).parameters else ""
    example = f"Example: sohes bench {name.value}{reference}"
    tool.command(epilog=example)(measure_and_print)
    tool(context.args, prog_name=f"sohes bench {name.value}")
