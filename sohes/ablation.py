"""Ablation tables: which keys of params.yaml each row sets, and a workspace of its own for every row.

A table is a file of `params/ablations/`. A row's workspace is a small DVC project that shares the project's cache, so
whatever two rows have in common is computed once, and a row that has been computed anywhere is never computed again.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sohes.errors import SohesError
from sohes.params import Params, load_params, read_mapping
from sohes.work.files import atomic_path

FOLDER = "params/ablations"
Phase = Literal["explore", "instruct", "correct"]


class Row(BaseModel):
    """What a row sets, by dotted key, and the paper's figures for it by metric."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    set: dict[str, Any]
    phase: Phase | None = None  # whose masks are scored, where it is not the table's
    paper: dict[str, float] = Field(default_factory=dict)


class Table(BaseModel):
    """One file of `params/ablations/`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    phase: Phase
    baseline: str  # the row that the others are compared with
    rows: dict[str, Row]

    @model_validator(mode="after")
    def _baseline_is_a_row(self) -> Table:
        if self.baseline not in self.rows:
            raise ValueError(f"the baseline must be a row (got {self.baseline!r})")
        return self

    def phase_of(self, row: str) -> Phase:
        return self.rows[row].phase or self.phase

    def keys(self) -> list[str]:
        """Every key that some row sets, in the order of the rows: the columns that make the rows differ."""
        return list(dict.fromkeys(key for row in self.rows.values() for key in row.set))


def table_file(name: str, root: Path) -> Path:
    """The file `params/ablations/<name>.yaml`. SohesError names the tables that exist."""
    tables = {path.stem: path for path in sorted((root / FOLDER).glob("*.yaml"))}
    if name not in tables:
        there, remedy = (", ".join(tables), "name one of them") if tables else ("none", "run in the project's folder")
        raise SohesError(f"no table {name!r} in {root / FOLDER} (there is: {there}): {remedy}")
    return tables[name]


def load_table(name: str, root: Path) -> Table:
    """The table `params/ablations/<name>.yaml`. SohesError names those that exist, or what is wrong in the file."""
    path = table_file(name, root)
    try:
        return Table.model_validate(read_mapping(path))
    except ValidationError as error:
        found = error.errors()[0]
        raise SohesError(f"{path}: {'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}") from None


def row_params(base: Path, changes: Mapping[str, Any], scratch: Path) -> Params:
    """The params file `base` with some dotted keys set, written to `scratch` and validated.

    SohesError for a key that is not there. Paths in it are made absolute: a workspace lies elsewhere.
    """
    load_params(base)  # a file that is wrong by itself is not the table's fault
    values = read_mapping(base)
    folder = values["pull"]["folder"]
    for key in ("images", "annotations"):
        if folder[key] is not None:
            folder[key] = str((base.parent / Path(folder[key]).expanduser()).resolve())
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section.get(name, {}) if isinstance(section, dict) else {}
        if last not in section:
            raise SohesError(f"the table sets {key}, which {base} does not have: mend one of the two")
        section[last] = value
    with atomic_path(scratch) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False))
        return load_params(temporary)


def make_workspace(root: Path, folder: Path, params: Path, changes: Mapping[str, Any], phase: Phase) -> Params:
    """Prepare a DVC project in `folder` that computes one row with the code of `root`; returns the row's params.

    Only the stages that the phase needs are in it: a row about pseudo-labels trains nothing.
    """
    values = row_params(params, changes, folder / "params.yaml")
    graph = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    with atomic_path(folder / "dvc.yaml") as path:
        path.write_text(yaml.safe_dump({"stages": stages_for(graph, phase)}, sort_keys=False))
    config = f"[core]\n    no_scm = true\n    analytics = false\n[cache]\n    dir = {root.resolve() / '.dvc/cache'}\n"
    with atomic_path(folder / ".dvc/config") as path:
        path.write_text(config)
    with atomic_path(folder / ".dvcignore") as path:
        path.write_text("__pycache__\n.sohes\n")
    code = folder / "sohes"
    if not code.exists():
        code.symlink_to((root / "sohes").resolve())
    return values


def stages_for(graph: Mapping[str, Any], phase: Phase) -> dict[str, Any]:
    """The stages up to the evaluation of a phase, which then scores that phase alone."""
    phases = ("explore", "instruct", "correct")
    needed = phases[: phases.index(phase) + 1]
    stages = {"pull": graph["pull"], "backbone": graph["backbone"]}
    if phase != "explore":  # evaluation makes phase 1's masks of the held-out images itself
        stages |= {name: graph[name] for name in needed}
    evaluate = copy.deepcopy(graph["evaluate"])
    evaluate["cmd"] = f"{evaluate['cmd']} --phase {phase}"
    unused = {f"models/{name}.safetensors" for name in ("instruct", "correct") if name != phase}
    evaluate["deps"] = [dep for dep in evaluate["deps"] if dep not in unused]
    evaluate["metrics"] = [m for m in evaluate["metrics"] if "metrics/untrained.json" not in m]
    if phase == "explore":
        evaluate["params"] = [name for name in evaluate["params"] if name != "model"]
    return {**stages, "evaluate": evaluate}


def folder_name(row: str) -> str:
    """A row's name as a folder's: `224, patch 8` becomes `224-patch-8`."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-")
