"""MLflow's database says by absolute paths where its files lie; in a copied or moved project they are corrected."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sohes.project import Project

# Where MLflow keeps the paths of an experiment and of what belongs to it.
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def correct_paths(project: Project) -> None:
    """Let the project's own database name the project's own folder of artifacts, wherever it lay before.

    A database that is a link, or that may not be written, stays as it is.
    """
    database, here = project.database, project.artifacts.resolve().as_uri()
    if database.is_symlink() or not database.is_file():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (there,) in found:
            if there and there != here and there.startswith("file:") and Path(there).name == project.artifacts.name:
                values = {"here": here, "there": f"{there}/", "length": len(there) + 1}
                for table, column in _COLUMNS:
                    moved = f"UPDATE {table} SET {column} = :here || substr({column}, :length)"
                    connection.execute(f"{moved} WHERE substr({column} || '/', 1, :length) = :there", values)
