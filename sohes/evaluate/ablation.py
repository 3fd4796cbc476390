"""Ablation tables as plain data: which keys of params.yaml each row sets, and the paper's figures for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from sohes.errors import SohesError
from sohes.params import Section
from sohes.pipeline import Phase
from sohes.project import TEMPLATE, Project, read_mapping


class Row(Section):
    """What a row sets, by dotted key, and the paper's figures for it by metric."""

    set: dict[str, Any]
    phase: Phase | None = None  # whose masks are scored, where it is not the table's
    paper: dict[str, float] = Field(default_factory=dict)


class Table(Section):
    """One file of `params/ablations/`."""

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
        """Whose masks the row is scored by."""
        return self.rows[row].phase or self.phase

    def keys(self) -> list[str]:
        """Every key that some row sets, in the order of the rows: the columns in which rows differ."""
        return list(dict.fromkeys(key for row in self.rows.values() for key in row.set))

    def order(self) -> list[str]:
        """The rows' names, the baseline first."""
        return [self.baseline, *(name for name in self.rows if name != self.baseline)]


def table_file(name: str, root: Path) -> Path:
    """The project's `params/ablations/<name>.yaml`, or the one that comes with the code.

    SohesError names the tables that exist.
    """
    folders = (TEMPLATE.ablations, Project(root).ablations)
    tables = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name not in tables:
        raise SohesError(f"no table {name!r} in {folders[1]} (there is: {', '.join(tables)}): name one of them")
    return tables[name]


def load_table(name: str, root: Path) -> Table:
    """The table `params/ablations/<name>.yaml`. SohesError names those that exist, or what is wrong in the file."""
    path = table_file(name, root)
    try:
        return Table.model_validate(read_mapping(path))
    except ValidationError as error:
        found = error.errors()[0]
        raise SohesError(f"{path}: {'.'.join(map(str, found['loc'])) or 'the file'}: {found['msg']}") from None
