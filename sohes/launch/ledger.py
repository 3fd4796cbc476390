"""The submitted jobs, on disk: a caller that was killed and started again waits for them and submits none twice."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sohes.errors import SohesError
from sohes.launch.task import Task
from sohes.project import Project, read_json
from sohes.work.files import write_json


@dataclass(frozen=True)
class Submission:
    """Jobs submitted together. name: unique, written down before any of them exists.  jobs: id by task.

    root: the project's folder: in a copy of the project these are another's jobs. digest: `Launch.digest`; jobs with
    another one have read other params, code or inputs, or were asked for in another way.
    """

    name: str
    jobs: dict[str, str]
    commands: dict[str, list[str]]
    root: str = ""
    digest: str = ""

    def answers(self, task: Task, digest: str) -> bool:
        """Whether it has a job that does just what is asked for now."""
        same = self.digest == digest and self.commands.get(task.name) == list(task.command)
        return same and task.name in self.jobs


class Ledger:
    """`.sohes/launch/<launcher>-<group>.json`."""

    def __init__(self, root: Path, launcher: str, group: str) -> None:
        self._path = Project(root).state("launch") / f"{launcher}-{group}.json"
        self._root = str(root.resolve())
        self._group = re.sub("[^a-z0-9]+", "-", group.lower()).strip("-")
        remedy = "cancel the jobs that it names, then remove it"
        known = read_json(self._path, remedy, list) if self._path.exists() else []
        try:
            self.submissions = [one for one in (Submission(**each) for each in known) if one.root in ("", self._root)]
        except TypeError:
            raise SohesError(f"{self._path} is damaged: {remedy}") from None

    def open(self, tasks: list[Task], digest: str) -> Submission:
        """Announce a submission, before it is made."""
        name = f"sohes-{self._group}-{uuid.uuid4().hex[:8]}"
        commands = {task.name: list(task.command) for task in tasks}
        submission = Submission(name, {}, commands, self._root, digest)
        self._save([*self.submissions, submission])
        return submission

    def submitted(self, submission: Submission, jobs: Mapping[str, str]) -> Submission:
        """Write the ids down as soon as they are known."""
        done = replace(submission, jobs=dict(jobs))
        self._save([done if one.name == submission.name else one for one in self.submissions])
        return done

    def drop(self, submission: Submission) -> None:
        self._save([one for one in self.submissions if one.name != submission.name])

    def close(self) -> None:
        """No job is left."""
        self._path.unlink(missing_ok=True)
        self.submissions = []

    def _save(self, submissions: list[Submission]) -> None:
        self.submissions = submissions
        write_json(self._path, [asdict(one) for one in submissions])
