"""What a run says about where it came from: the commit, and the digests that DVC has recorded of its inputs.

Only notes what Git and DVC know; neither is driven from here.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sohes.project import Project, read_mapping


def git_tags(root: Path) -> dict[str, str]:
    """Commit and whether tracked files differ from it; nothing outside a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"mlflow.source.git.commit": commit, "sohes.git.dirty": "true" if dirty else "false"}


def dvc_tags(stage: str, root: Path) -> dict[str, str]:
    """`dvc.<path>`: DVC's digest of each of the stage's inputs.

    Only when DVC itself runs the stage: it has just checked that dvc.lock is true of the files.
    """
    project = Project(root)
    if "DVC_ROOT" not in os.environ or not project.lock.exists():
        return {}
    stages = read_mapping(project.lock).get("stages", {})
    made = {out["path"]: out.get("md5", "") for entry in stages.values() for out in entry.get("outs", [])}
    graph = read_mapping(project.graph)["stages"]
    return {f"dvc.{path}": made[path] for path in graph.get(stage, {}).get("deps", []) if path in made}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
