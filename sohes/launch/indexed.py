"""In a pod of an Indexed Job: become the command of the pod's index.

python -m sohes.launch.indexed COMMANDS.json

The commands lie in a file on the project's volume: thousands do not fit into a Job's manifest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sohes.project import Project, read_json
from sohes.work.files import write_json


def commands_file(root: Path, job: str) -> Path:
    """Where the commands of a Job lie."""
    return Project(root).state("launch") / f"{job}.commands.json"


def write_commands(path: Path, commands: Sequence[Sequence[str]]) -> None:
    """In the order of their indexes."""
    write_json(path, [list(command) for command in commands])


def read_commands(path: Path) -> list[list[str]]:
    """What `write_commands` has written."""
    return read_json(path, "run the pipeline again", list)


def main() -> NoReturn:
    """Replace this process, so that signals and the exit code are the command's own."""
    command = read_commands(Path(sys.argv[1]))[int(os.environ["JOB_COMPLETION_INDEX"])]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
