"""Tasks as a Kubernetes Job, by the official client: one pod a node of a single task, or one Indexed Job of many tasks.

The cluster itself enforces deadlines, restarts and clean-up, so nothing is left behind when the caller dies; a caller
that is started again finds the jobs by the names in its ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sohes.errors import SohesError, TemporaryError
from sohes.launch.indexed import commands_file, read_commands, write_commands
from sohes.launch.kubernetes_api import NEVER_STARTS, Cluster, State, Taken
from sohes.launch.ledger import Ledger
from sohes.launch.manifests import job_name, render_job, render_service
from sohes.launch.profile import KubernetesProfile, Resources
from sohes.launch.task import LAST_LINES, Launch, Outcome, Task, log_file, pause, with_python

FAILED = 1
OVERLAP = 30  # seconds of log that are read twice, for lines that the node writes late
LOOK_AT_PODS = 60  # seconds between two looks at what keeps pods from starting
GIVE_UP = 300  # seconds that none of a job's pods may start for one of these reasons


def run_kubernetes(tasks: Sequence[Task], launch: Launch, profile: KubernetesProfile) -> list[Outcome]:
    """Create a Job for all tasks that have none, wait for them, keep their logs and delete it.

    Many tasks are the indexes of one Job, `at_once` of which run at the same time, and each poll is one request. The
    log of a single task reaches the file and `on_line` while it runs, that of one of many when it has ended. An
    interruption deletes the Job; after kill -9 the next call finds it. SohesError if the API server refuses or no pod
    can start; TemporaryError, and the Job goes on, if it does not answer.
    """
    if len(tasks) > 1 and launch.kind == "train":
        raise ValueError(f"a job trains one network (got {len(tasks)} tasks)")
    cluster = Cluster(profile)
    ledger = Ledger(launch.root, "kubernetes", launch.group)
    places = _announced(tasks, launch, ledger, cluster, profile)
    owner = {_place(text)[0]: one for one in ledger.submissions for text in one.jobs.values()}
    outcomes: dict[str, Outcome] = {}
    logs: dict[str, Log] = {}
    hindered = Hindered(cluster, launch.on_line)
    began = time.monotonic()
    try:
        for task in tasks:
            job, index = places[task.name]
            heard = launch.on_line if len(tasks) == 1 else None
            logs[task.name] = Log(cluster, job, index, log_file(launch.root, f"{launch.group}-{task.name}"), heard)
        for job in dict.fromkeys(job for job, _ in places.values()):
            try:
                cluster.create(_manifests(job, owner[job].name, tasks, places, launch, profile))
            except Taken:
                ledger.drop(owner[job])  # what is not ours is not deleted below
                commands_file(launch.root, job).unlink(missing_ok=True)
                raise
        while True:
            states = {job: cluster.state(job) for job in {places[name][0] for name in logs}}
            for name, log in list(logs.items()):
                ended = states[places[name][0]].of(places[name][1])
                if ended is not None or len(tasks) == 1:
                    log.read()
                if ended is not None:
                    outcomes[name] = log.outcome(ended)
                    del logs[name]
                    launch.on_progress(len(outcomes), len(tasks))
            if not logs:
                break
            hindered.look({places[name][0]: states[places[name][0]] for name in logs})
            time.sleep(pause(time.monotonic() - began, profile.poll_seconds))
    except TemporaryError:
        raise  # the ledger stays, and the next call finds the jobs
    except BaseException:
        with contextlib.suppress(SohesError):
            _forget(ledger, cluster, launch.root)
        raise
    in_order = [outcomes[task.name] for task in tasks]
    launch.record_if_done(in_order)
    _forget(ledger, cluster, launch.root)
    return in_order


Place = tuple[str, int | None]  # a Job, and which of its indexes


def _place(text: str) -> Place:
    job, _, index = text.partition("/")
    return job, int(index) if index else None


def _announced(
    tasks: Sequence[Task], launch: Launch, ledger: Ledger, cluster: Cluster, profile: KubernetesProfile
) -> dict[str, Place]:
    """The place of every task. We choose the names of Jobs, so they are written down before any exists."""
    places: dict[str, Place] = {}
    for one in list(ledger.submissions):
        known = {task.name for task in tasks if one.answers(task, launch.digest)}
        places |= {name: _place(one.jobs[name]) for name in known}
        if not known:
            _delete(cluster, launch.root, map(_place, one.jobs.values()))
            ledger.drop(one)
    new = [task for task in tasks if task.name not in places]
    if new:
        submission = ledger.open(new, launch.digest)
        job = job_name(submission.name, new[0].name)
        indexes = [job]
        if len(new) > 1:
            indexes = [f"{job}/{index}" for index in range(len(new))]
            write_commands(commands_file(launch.root, job), [with_python(task.command, profile.python) for task in new])
        ledger.submitted(submission, dict(zip((task.name for task in new), indexes, strict=True)))
        places |= {task.name: _place(text) for task, text in zip(new, indexes, strict=True)}
    return places


def _manifests(
    job: str, submission: str, tasks: Sequence[Task], places: Mapping[str, Place], launch: Launch,
    profile: KubernetesProfile,
) -> list[dict[str, Any]]:  # fmt: skip
    """What has to exist for one of the jobs."""
    resources: Resources = getattr(profile, launch.kind)
    task = next(task for task in tasks if places[task.name][0] == job)
    several = 0
    if places[task.name][1] is not None:
        path = commands_file(launch.root, job)
        several = len(read_commands(path))
        task = Task("all", ("python", "-m", "sohes.launch.indexed", str(path)))
    train = launch.kind == "train"
    rendered = render_job(
        task, job, launch.root, profile, resources, launch.environment, submission=submission, train=train,
        several=several,
    )  # fmt: skip
    return [*render_service(job, profile, resources, submission=submission), rendered]


def _forget(ledger: Ledger, cluster: Cluster, root: Path) -> None:
    """Delete all jobs of the ledger, then itself."""
    _delete(cluster, root, [_place(text) for one in ledger.submissions for text in one.jobs.values()])
    ledger.close()


def _delete(cluster: Cluster, root: Path, places: Iterable[Place]) -> None:
    for job in dict.fromkeys(job for job, _ in places):
        cluster.delete(job)
        commands_file(root, job).unlink(missing_ok=True)


class Log:
    """The log of a job, or of one of its indexes, as it grows: every line of every pod once.

    Polled, not followed: no connection has to stay open for days, and a pod that replaces another is found, too. Lines
    are identified by the time stamp that the node puts before each.
    """

    def __init__(
        self, cluster: Cluster, job: str, index: int | None, path: Path, on_line: Callable[[str], None] | None
    ) -> None:
        self._cluster, self._job, self._index, self._path, self._on_line = cluster, job, index, path, on_line
        self._seen: dict[str, str] = {}  # by pod, the time of the last line
        self._ends: dict[str, tuple[str, int]] = {}  # of those that failed: when, and with which exit code
        self._read_at = time.monotonic()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> None:
        """Append the new lines."""
        overlap = round(time.monotonic() - self._read_at) + OVERLAP
        self._read_at = time.monotonic()
        with self._path.open("a", encoding="utf-8") as file:
            for pod in self._cluster.pods(self._job, self._index):
                if pod.exit_code:
                    self._ends[pod.name] = pod.ended, pod.exit_code
                seen = self._seen.get(pod.name, "")
                for stamped in (self._cluster.log(pod.name, overlap if seen else None) or "").split("\n"):
                    stamp, _, line = stamped.partition(" ")
                    if stamp <= seen:
                        continue
                    self._seen[pod.name] = stamp
                    file.write(f"{line}\n")
                    self._last.append(line.rstrip())
                    if self._on_line is not None:
                        self._on_line(line)

    def outcome(self, failure: str) -> Outcome:
        """How the job ended, with its last lines. failure: empty, or Kubernetes's reason.

        The exit code is that of the pod that failed last; 1 if no pod has told one.
        """
        if not failure:
            return Outcome(0, self._path, tuple(self._last))
        what = f"job {self._job}" if self._index is None else f"index {self._index} of job {self._job}"
        _, code = max(self._ends.values(), default=("", FAILED))
        return Outcome(code, self._path, (*self._last, f"Kubernetes says {failure} of {what}"))


class Hindered:
    """What keeps the pods of jobs from starting: said once, and an error if it lasts and does not pass by itself."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None]) -> None:
        self._cluster, self._say = cluster, say
        self._since: dict[tuple[str, str], float] = {}  # by job and reason
        self._looked_at = time.monotonic()

    def look(self, states: Mapping[str, State]) -> None:
        """At jobs that are not done, now and then. SohesError if a pod's image or its settings are wrong.

        Pods without a node or a quota wait: others make room for them.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_AT_PODS:
            return
        self._looked_at, before, self._since = now, self._since, {}
        for job, state in states.items():
            if state.ready and state.ready == state.active:
                continue
            for reason, message in self._cluster.hindrances(job).items():
                since = self._since[job, reason] = before.get((job, reason), now)
                if (job, reason) not in before:
                    self._say(f"job {job} waits: {reason}: {message}")
                if reason in NEVER_STARTS and not state.ready and now - since >= GIVE_UP:
                    raise SohesError(
                        f"no pod of job {job} can start ({reason}: {message}): correct the image, the secrets or the "
                        "volumes in infra/launch, and run the same command again"
                    )
