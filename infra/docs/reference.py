"""MkDocs hook: what the reference has of the code itself: every parameter and every command."""

from __future__ import annotations

import inspect
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from sohes import cli, params

ROOT = Path(__file__).parents[2]
PROFILES = {"demo": "params.yaml", "one GPU": "params/one-gpu.yaml", "paper": "params/paper.yaml"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace what stands between the marks of a page, for readers of the source, with what is made here."""
    for name, make in {"parameters": parameters, "commands": commands}.items():
        before, begin, rest = markdown.partition(f"<!-- {name}: begin -->")
        if begin:
            markdown = before + make() + rest.partition(f"<!-- {name}: end -->")[2]
    return markdown


def parameters() -> str:
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
    return _cell(field.description or "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, params.Section)


# ---------------------------------------------------------------- commands


def commands() -> str:
    """A heading per panel of `sohes --help`, and below it each command: its help and its options."""
    panels = sorted(cli.COMMANDS, key=lambda name: [cli.STAGES, cli.TOOLS, cli.PLUMBING].index(cli.COMMANDS[name][0]))
    parts = []
    for panel, names in groupby(panels, key=lambda name: cli.COMMANDS[name][0]):
        parts += [f"## {panel}\n", *map(_command, names)]
    return "\n".join(parts)


def _command(name: str) -> str:
    command = cli.load(name)
    context = command.context_class(command, info_name=f"sohes {name}")
    about, _, example = (command.help or "").rpartition("xample: ")
    about = about.removesuffix("For e").removesuffix("E").strip()
    records = (option.get_help_record(context) for option in command.get_params(context))
    rows = [f"| `{words}` | {_cell(what).replace('  [', ' [')} |" for words, what in records if words != "--help"]
    table = ["| option | what |", "|---|---|", *rows] if rows else []
    return "\n".join([f"### sohes {name}\n", f"{about}\n", f"```bash\n{example.strip()}\n```\n", *table, ""])
