"""MkDocs hook: generate the page of parameters from the models in `sohes/params/` and the profiles."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import yaml

from sohes import params

ROOT = Path(__file__).parents[2]
PROFILES = {"demo": "params.yaml", "one GPU": "params/one-gpu.yaml", "paper": "params/paper.yaml"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace what stands between the page's marks, for readers of the source, with the tables."""
    before, begin, rest = markdown.partition("<!-- parameters: begin -->")
    return before + reference() + rest.partition("<!-- parameters: end -->")[2] if begin else markdown


def reference() -> str:
    """A heading and a table per section of params.yaml: key, meaning, value in each profile."""
    values = {name: yaml.safe_load((ROOT / path).read_text()) for name, path in PROFILES.items()}
    seeds = [f"{profile['seed']} ({name})" for name, profile in values.items()]
    parts = [f"`seed`, {meanings(params.Params)['seed']}: {', '.join(seeds)}\n"]
    for name, field in params.Params.model_fields.items():
        if _is_section(field.annotation):
            parts += _section(name, field.annotation, {profile: v[name] for profile, v in values.items()})
    return "\n".join(parts)


def _section(name: str, model: Any, values: dict[str, dict]) -> list[str]:
    said = meanings(model)
    lines = [f"## {name}\n", f"{(model.__doc__ or '').strip()}\n" if model.__doc__ else ""]
    lines += [f"| key | what | {' | '.join(values)} |", "|---|---|" + "---|" * len(values)]
    below = []
    for key, field in model.model_fields.items():
        inside = {profile: section[key] for profile, section in values.items()}
        if _is_section(field.annotation):
            below += ["", *_section(f"{name}.{key}", field.annotation, inside)]
            continue
        shown = " | ".join(f"`{value}`" for value in inside.values())
        lines.append(f"| `{key}` | {said[key]} | {shown} |")
    return [*lines, *below, ""]


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, params.Section)


def meanings(model: Any) -> dict[str, str]:
    """The comment after each field in the source, inherited fields included; empty for a field without one."""
    found = {}
    for owner in filter(_is_section, reversed(model.__mro__)):
        lines = inspect.getsource(owner).splitlines()
        (definition,) = ast.parse("\n".join(lines)).body
        assert isinstance(definition, ast.ClassDef)
        for statement in definition.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                written = lines[statement.lineno - 1 : statement.end_lineno]
                said = [comment for _, mark, comment in (line.partition("  # ") for line in written) if mark]
                found[statement.target.id] = " ".join(said).replace("|", "\\|")
    return found
