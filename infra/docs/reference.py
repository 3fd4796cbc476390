"""MkDocs hook: generate the page of parameters from the models in `sohes/params/` and the profiles."""

from __future__ import annotations

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
    parts = [f"`seed`: {_what(params.Params.model_fields['seed'])} {', '.join(seeds)}\n"]
    for name, field in params.Params.model_fields.items():
        if _is_section(field.annotation):
            parts += _section(name, field.annotation, {profile: v[name] for profile, v in values.items()})
    return "\n".join(parts)


def _section(name: str, model: Any, values: dict[str, dict]) -> list[str]:
    lines = [f"## {name}\n", f"{(model.__doc__ or '').strip()}\n" if model.__doc__ else ""]
    lines += [f"| key | what | {' | '.join(values)} |", "|---|---|" + "---|" * len(values)]
    below = []
    for key, field in model.model_fields.items():
        inside = {profile: section[key] for profile, section in values.items()}
        if _is_section(field.annotation):
            below += ["", *_section(f"{name}.{key}", field.annotation, inside)]
            continue
        shown = " | ".join(f"`{value}`" for value in inside.values())
        lines.append(f"| `{key}` | {_what(field)} | {shown} |")
    return [*lines, *below, ""]


def _what(field: Any) -> str:
    return (field.description or "").replace("|", "\\|")


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, params.Section)
