"""`sohes params`: the numbers in force, and the schema of their file."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from sohes.commands.options import HERE, ParamsFile
from sohes.params import load_params_anywhere


def params(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file, for editors.")] = False,
    params: ParamsFile = HERE.params,
) -> None:
    """Print every number in force.

    It is checked as every command checks it, and is a file of params itself.

    Example: sohes params
    """
    if schema:
        from sohes.params.schema import schema_text

        print(schema_text(), end="")
        return
    values = load_params_anywhere(params).model_dump(mode="json")
    print(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120), end="")
