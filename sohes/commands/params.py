"""`sohes params`: the numbers in force, what each means, and the schema of their file."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from sohes.commands.options import HERE, ParamsFile, Settings, complete_key
from sohes.errors import SohesError
from sohes.params import Params, load_params, load_params_anywhere, profiles
from sohes.params.keys import nearest, parse_changes
from sohes.params.schema import described, kind, schema_text, shown


def params(
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", autocompletion=complete_key, help="What a key, or each of a section, means, and its values."
        ),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file, for editors.")] = False,
    params: ParamsFile = HERE.params,
    settings: Settings = None,
) -> None:
    """Print every number in force, or explain one.

    What is printed has been checked, and is a file of params itself.

    Example: sohes params --explain explore.theta_merge
    """
    if schema:
        if explain is not None or settings:
            raise SohesError("--schema is the same for every key and value: leave out --explain and --set")
        print(schema_text(), end="")
        return
    values = load_params_anywhere(params, parse_changes(settings))
    if explain is None:
        text = yaml.safe_dump(values.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
        print(text, end="")
    else:
        print("\n\n".join(explained(explain, values)))


def explained(key: str, here: Params) -> list[str]:
    """A paragraph about the key and, of a section, about every key below it. SohesError for one that is unknown."""
    known = described()
    if key not in known:
        raise SohesError(f"there is no key {key}: {nearest(key, known)}")
    others = {name: load_params(file) for name, file in profiles().items()}
    return [
        _paragraph(name, node, here, others)
        for name, node in known.items()
        if name == key or name.startswith(f"{key}.")
    ]


def _paragraph(key: str, node: dict[str, Any], here: Params, others: dict[str, Params]) -> str:
    lines = [key, f"  {node['description']}"]
    if "properties" not in node:  # a section has its values below
        holders: dict[str, list[str]] = {}
        for name, values in others.items():
            holders.setdefault(_value(values, key), []).append(name)
        lines += [f"  Type: {kind(node)}", f"  Here: {_value(here, key)}"]
        lines += [f"  In {', '.join(names)}: {value}" for value, names in holders.items()]
    return "\n".join(lines)


def _value(values: Params, key: str) -> str:
    found: Any = values.model_dump(mode="json")
    for name in key.split("."):
        found = found[name]
    return shown(found)
