"""A workspace for every row of an ablation table: a small DVC project that shares the project's cache.

Whatever two rows have in common is computed once, and a row that has been computed anywhere is never computed again.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from flows.graph import command_of, path_of, sections_of, stages, without_params_file
from sohes.params import Params, load_params
from sohes.params.keys import set_keys
from sohes.pipeline import CODE, PHASES, Phase
from sohes.project import Project, read_mapping
from sohes.work.files import atomic_path
from sohes.work.identity import identity

HERE = Project(Path())  # paths as dvc.yaml has them
# Params that name files: by path or address, and by path if there is such a file, else by name.
PATHS = (
    *(f"pull.folder.{key}" for key in ("images", "annotations")),
    *(f"pull.archives.{key}" for key in ("images", "eval", "annotations", "digests")),
    *(f"pull.sa1b.{key}" for key in ("links", "packs", "digests")),
    "pull.s3.digests",
)
NAMES = ("backbone.pretrained", "backbone.distill.teacher.pretrained", "instruct.start")


def make_workspace(root: Path, folder: Path, params: Path, changes: Mapping[str, Any], phase: Phase) -> Params:
    """Prepare a DVC project in `folder` that computes one row with the code of `root`; returns the row's params.

    Only the stages that the phase needs are in it: a row about pseudo-labels trains nothing.
    """
    values = row_params(root, params, changes, Project(folder).params)
    graph = stages_for(stages(root), phase)
    # Relative, since the whole project may be copied or moved.
    cache = os.path.relpath(root.resolve() / ".dvc/cache", folder.resolve() / ".dvc")
    config = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {cache}\n"
    texts = {".dvc/config": config, ".dvcignore": "__pycache__\n.sohes\n.*.unfinished\n"}
    texts["dvc.yaml"] = yaml.safe_dump({"stages": graph}, sort_keys=False)
    for name, text in texts.items():
        with atomic_path(folder / name) as path:
            path.write_text(text)
    if CODE in graph:  # of the package as it is installed
        return values
    code, of_project = folder / "sohes", os.path.relpath(root.resolve() / "sohes", folder.resolve())
    if not code.is_symlink() or str(code.readlink()) != of_project:
        code.unlink(missing_ok=True)
        code.symlink_to(of_project)
    return values


def row_params(root: Path, base: Path, changes: Mapping[str, Any], scratch: Path) -> Params:
    """The params file `base` with some dotted keys set, written to `scratch` and validated.

    SohesError for a key that is not there. Paths of the project `root` are made absolute: a workspace lies elsewhere.
    """
    load_params(base)  # a file that is wrong by itself is not the table's fault
    values = read_mapping(base)
    named: dict[str, Any] = {key: reduce(getitem, key.split("."), values) for key in (*PATHS, *NAMES)}
    files = {key: value for key, value in named.items() if key in PATHS or (value and (root / value).is_file())}
    absolute = {key: _absolute(value, root) for key, value in files.items()}
    set_keys(values, {**absolute, **changes}, who="the table", file=base)
    with atomic_path(scratch) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False))
        return load_params(temporary)


def _absolute(value: Any, root: Path) -> Any:
    """A path, or a list of them, seen from anywhere; an address or null stays as it is."""
    if isinstance(value, list):
        return [_absolute(one, root) for one in value]
    return value if value is None or "://" in value else str((root / Path(value).expanduser()).resolve())


def stages_for(graph: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """The stages up to the evaluation of a phase, which then scores that phase alone, all on the folder's params.yaml.

    graph: dvc.yaml's stages.
    """
    trained = PHASES[: PHASES.index(phase) + 1] if phase != "explore" else ()  # `evaluate` runs phase 1 itself
    needed = {CODE: graph[CODE]} if CODE in graph else {}
    needed |= {name: _on_own_params(graph[name]) for name in ("pull", "backbone", *trained, "evaluate")}
    evaluate = needed["evaluate"]
    evaluate["cmd"] += f" --phase {phase}"
    unused = {str(HERE.model(name)) for name in PHASES if name != phase}
    unused.add(str(HERE.metrics("regions")))  # of an evaluation of all phases
    for kind in ("deps", "outs", "metrics"):
        evaluate[kind] = [entry for entry in evaluate[kind] if path_of(entry) not in unused]
    if phase == "explore":
        evaluate["params"] = [name for name in evaluate["params"] if name != "model"]
    return needed


def _on_own_params(stage: Mapping[str, Any]) -> dict[str, Any]:
    command = shlex.join(without_params_file(command_of(stage)))
    return {**stage, "cmd": command, "params": sections_of(stage)}


def folder_name(row: str) -> str:
    """A row's name as a folder's: `224, patch 8` becomes `224-patch-8`; a digest tells apart what has lost letters."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-")
    return name if row.isascii() else f"{name}-{identity([row])[:8]}".strip("-")
