"""`sohes ablate`: the rows of an ablation table. The work is that of `flows.ablate`, since DVC computes them."""

from __future__ import annotations

from typing import Annotated

import typer

from sohes.commands.options import HERE, ParamsFile
from sohes.launch.become import become


def ablate(
    table: Annotated[str, typer.Argument(help="A file of params/ablations: table-2, table-3, table-6a, ...")],
    row: Annotated[str | None, typer.Option(help="Only this row.")] = None,
    params: ParamsFile = HERE.params,
) -> None:
    """Compute the rows of an ablation table into MLflow.

    What DVC has cached is not computed again.

    Example: sohes ablate table-6a && sohes compare table-6a
    """
    become("flows.ablate", table, "--params", str(params), *(() if row is None else ("--row", row)))
