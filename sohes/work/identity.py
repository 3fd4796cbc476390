"""What a piece of work depends on, as one short name: params, inputs, and the code that does it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# They check, write, record or say where things lie; what is computed does not depend on them. Params count by value.
WITHOUT_EFFECT = frozenset(
    f"sohes{name}"
    for name in (
        "", ".errors", ".params", ".pipeline", ".project", ".tracking", ".work.alone", ".work.cgroup",
        ".work.compiled", ".work.cost", ".work.files", ".work.identity", ".work.memory", ".work.origin", ".work.pool",
        ".work.sharded", ".work.surroundings", ".work.weights",
    )
)  # fmt: skip


def identity(depends: object) -> str:
    """16 hex digits that change with any part of a JSON value."""
    text = json.dumps(depends, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@cache
def code_digest(*modules: str) -> str:
    """Changes with the source of these modules and of whatever they import from this package, at any distance."""
    digest = hashlib.sha256()
    for name, path in sorted(source_files(modules).items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def source_files(modules: Iterable[str], *, ignore: Iterable[str] = ()) -> dict[str, Path]:
    """The files of these modules and of what they import from this package, by module, WITHOUT_EFFECT left out.

    Imports inside functions count, those for type checkers do not. ignore: packages that count as not imported.
    """
    import grimp

    graph = grimp.build_graph("sohes", exclude_type_checking_imports=True, cache_dir=None)
    for package in ignore:
        for name in {package} | graph.find_descendants(package):
            graph.remove_module(name)
    names = {name for module in modules for name in {module} | graph.find_upstream_modules(module)}
    root = Path(__file__).parents[1]
    files = {}
    for name in names - WITHOUT_EFFECT:
        path = root.joinpath(*name.split(".")[1:])
        if not name.startswith(("sohes.params.", "sohes.tracking.")):
            files[name] = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return files
