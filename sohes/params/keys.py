"""Dotted keys of params, such as `explore.theta_cover`: values set by them, and those nearest to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from sohes.errors import SohesError
from sohes.project import parse_yaml


def parse_changes(settings: Sequence[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` as on a command line, by key; the value as YAML. Of two for a key the last counts.

    SohesError for one without a key or `=`, or whose value is not YAML.
    """
    changes = {}
    for setting in settings or ():
        key, sign, value = setting.partition("=")
        if not (key and sign):
            raise SohesError(f"--set {setting}: write KEY=VALUE, such as --set explore.refiner=none")
        changes[key] = parse_yaml(value, f"--set {setting}")
    return changes


def set_keys(values: dict[str, Any], changes: Mapping[str, Any], *, who: str, file: object) -> None:
    """Put values in the place of those that the content of a file of params has under these keys.

    who, file: for the SohesError about a key that is not there: who sets it, and where it is missing.
    """
    for key, value in changes.items():
        *sections, last = key.split(".")
        section: Any = values
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise SohesError(f"{who} sets {key}, which {file} does not have: {nearest(key, _keys(values))}")
        section[last] = value


def nearest(key: str, known: Iterable[str]) -> str:
    """A remedy for a key that is not known: those that are most like it, or that end like it where it is not whole."""
    words = len(key.split("."))
    ends = {name: ".".join(name.split(".")[-words:]) for name in known}
    like = {name: SequenceMatcher(None, key, end).ratio() for name, end in ends.items()}
    least = max(0.75, max(like.values(), default=0) - 0.1)
    found = sorted((name for name in like if like[name] >= least), key=like.__getitem__, reverse=True)[:3]
    return f"did you mean {' or '.join(found)}?" if found else "`sohes params` prints all that there are"


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")
