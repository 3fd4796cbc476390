"""The JSON Schema of files of params, and what it says of a key in words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from sohes.params import Params

MARK = "# yaml-language-server: $schema="  # before a schema's path: editors read it in a file's first lines
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
WORDS = {"boolean": "true or false", "string": "text", "object": "mapping"}

Node = dict[str, Any]  # a part of a schema


class _WithoutTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: object) -> bool:
        return False  # it would be the key in other letters


def schema_text() -> str:
    """The schema as `params/schema.json` holds it."""
    about = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": "Made by `sohes params --schema` from the models of this version.",
    }
    return json.dumps(about | Params.model_json_schema(schema_generator=_WithoutTitles), indent=2) + "\n"


def first_line(params: Path, schema: Path) -> str:
    """The comment by which an editor finds the schema of a file of params: a path relative to the file."""
    relative = os.path.relpath(schema.resolve(), params.parent.resolve())
    return f"{MARK}{Path(relative).as_posix()}\n"


def naming(schema: Path, params: Path, text: str) -> str:
    """The text of a file of params with that line first, and no other of its kind."""
    others = (line for line in text.splitlines(keepends=True) if not line.startswith(MARK))
    return first_line(params, schema) + "".join(others)


def described() -> dict[str, Node]:
    """What the schema says of every key and section, by dotted name, in the file's order."""
    whole = Params.model_json_schema(schema_generator=_WithoutTitles)
    return dict(_below(whole, whole["$defs"], ""))


def _below(section: Node, definitions: Mapping[str, Node], prefix: str) -> Iterator[tuple[str, Node]]:
    for name, node in section.get("properties", {}).items():
        full = definitions[node["$ref"].rpartition("/")[2]] | node if "$ref" in node else node
        yield prefix + name, full
        yield from _below(full, definitions, f"{prefix}{name}.")


def kind(node: Node) -> str:
    """Type and range in words, such as `number, at least 0, at most 1`."""
    if "anyOf" in node:
        return " or ".join(map(kind, node["anyOf"]))
    if "enum" in node:
        return f"one of {', '.join(node['enum'])}"
    if node["type"] == "array":
        few = f"at least {node['minItems']}, " if "minItems" in node else ""
        return f"list, {few}each: {kind(node['items'])}"
    name: str = "path" if node.get("format") == "path" else node["type"]
    return ", ".join(
        [WORDS.get(name, name), *(f"{words} {node[bound]}" for bound, words in BOUNDS.items() if bound in node)]
    )


def shown(value: Any) -> str:
    """A value as YAML and JSON have it; words without quotation marks."""
    return value if isinstance(value, str) else json.dumps(value)
