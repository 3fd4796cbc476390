"""Tasks as a Kubernetes Job, by the official client: one pod a node of a single task, or one Indexed Job of many tasks.

The cluster itself enforces deadlines, restarts and clean-up, so nothing is left behind when the caller dies; a caller
that is started again finds the jobs by the names in its ledger.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sohes.errors import SohesError, TemporaryError
from sohes.launch.indexed import commands_file, read_commands, write_commands
from sohes.launch.ledger import Ledger
from sohes.launch.manifests import job_name, render_job, render_service
from sohes.launch.profile import KubernetesProfile, Resources
from sohes.launch.task import LAST_LINES, Launch, Outcome, Task, log_file, pause, with_python
from sohes.work.pool import from_ranges

FAILED = 1
OVERLAP = 30  # seconds of log that are read twice, for lines that the node writes late
PATIENCE = 10  # requests in a row that may fail before we give up
INDEX = "batch.kubernetes.io/job-completion-index"  # a pod's label


def run_kubernetes(tasks: Sequence[Task], launch: Launch, profile: KubernetesProfile) -> list[Outcome]:
    """Create a Job for all tasks that have none, wait for them, keep their logs and delete it.

    Many tasks are the indexes of one Job, `at_once` of which run at the same time, and each poll is one request. The
    log of a single task reaches the file and `on_line` while it runs, that of one of many when it has ended. An
    interruption deletes the Job; after kill -9 the next call finds it. SohesError if the API server refuses.
    """
    if len(tasks) > 1 and launch.kind == "train":
        raise ValueError(f"a job trains one network (got {len(tasks)} tasks)")
    cluster = Cluster(profile)
    ledger = Ledger(launch.root, "kubernetes", launch.group)
    places = _announced(tasks, launch, ledger, cluster, profile)
    outcomes: dict[str, Outcome] = {}
    logs: dict[str, Log] = {}
    began = time.monotonic()
    try:
        for task in tasks:
            job, index = places[task.name]
            heard = launch.on_line if len(tasks) == 1 else None
            logs[task.name] = Log(cluster, job, index, log_file(launch.root, f"{launch.group}-{task.name}"), heard)
        for job in dict.fromkeys(job for job, _ in places.values()):
            cluster.create(_manifests(job, tasks, places, launch, profile))
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
            time.sleep(pause(time.monotonic() - began, profile.poll_seconds))
    except BaseException:
        # If the API no longer answers, the ledger stays, and the next call finds the job.
        with contextlib.suppress(SohesError):
            _forget(ledger, cluster, launch.root)
        raise
    _forget(ledger, cluster, launch.root)
    return [outcomes[task.name] for task in tasks]


Place = tuple[str, int | None]  # a Job, and which of its indexes


def _place(text: str) -> Place:
    job, _, index = text.partition("/")
    return job, int(index) if index else None


def _announced(
    tasks: Sequence[Task], launch: Launch, ledger: Ledger, cluster: Cluster, profile: KubernetesProfile
) -> dict[str, Place]:
    """The place of every task. We choose the names of Jobs, so they are written down before any exists."""
    commands = {task.name: list(task.command) for task in tasks}
    places: dict[str, Place] = {}
    for one in list(ledger.submissions):
        known = {name for name, command in one.commands.items() if commands.get(name) == command and name in one.jobs}
        places |= {name: _place(one.jobs[name]) for name in known}
        if not known:
            _delete(cluster, launch.root, map(_place, one.jobs.values()))
            ledger.drop(one)
    new = [task for task in tasks if task.name not in places]
    if new:
        submission = ledger.open(new)
        job = job_name(submission.name, new[0].name)
        indexes = [job]
        if len(new) > 1:
            indexes = [f"{job}/{index}" for index in range(len(new))]
            write_commands(commands_file(launch.root, job), [with_python(task.command, profile.python) for task in new])
        ledger.submitted(submission, dict(zip((task.name for task in new), indexes, strict=True)))
        places |= {task.name: _place(text) for task, text in zip(new, indexes, strict=True)}
    return places


def _manifests(
    job: str, tasks: Sequence[Task], places: Mapping[str, Place], launch: Launch, profile: KubernetesProfile
) -> list[dict[str, Any]]:
    """What has to exist for one of the jobs."""
    resources: Resources = getattr(profile, launch.kind)
    task = next(task for task in tasks if places[task.name][0] == job)
    several = 0
    if places[task.name][1] is not None:
        path = commands_file(launch.root, job)
        several = len(read_commands(path))
        task = Task("all", ("python", "-m", "sohes.launch.indexed", str(path)))
    train = launch.kind == "train"
    rendered = render_job(task, job, launch.root, profile, resources, launch.environment, train=train, several=several)
    return [*render_service(job, profile, resources), rendered]


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
        self._read_at = time.monotonic()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> None:
        """Append the new lines."""
        overlap = round(time.monotonic() - self._read_at) + OVERLAP
        self._read_at = time.monotonic()
        with self._path.open("a", encoding="utf-8") as file:
            for pod in self._cluster.pods(self._job, self._index):
                seen = self._seen.get(pod, "")
                for stamped in (self._cluster.log(pod, overlap if seen else None) or "").splitlines():
                    stamp, _, line = stamped.partition(" ")
                    if stamp <= seen:
                        continue
                    self._seen[pod] = stamp
                    file.write(f"{line}\n")
                    self._last.append(line.rstrip())
                    if self._on_line is not None:
                        self._on_line(line)

    def outcome(self, failure: str) -> Outcome:
        """How the job ended, with its last lines. failure: empty, or Kubernetes's reason."""
        if not failure:
            return Outcome(0, self._path, tuple(self._last))
        what = f"job {self._job}" if self._index is None else f"index {self._index} of job {self._job}"
        return Outcome(FAILED, self._path, (*self._last, f"Kubernetes says {failure} of {what}"))


# ---------------------------------------------------------------- the API


@dataclass(frozen=True)
class State:
    """Of a job: None while it runs, an empty string when it is done, or why it failed; and the indexes that ended."""

    job: str | None
    done: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()

    def of(self, index: int | None) -> str | None:
        """The same of one of its indexes; of the whole job for None."""
        if index is None or index not in self.done | self.failed:
            return self.job
        return "" if index in self.done else "Failed"


class Cluster:
    """The few calls that the launcher needs, in one namespace. Configured as kubectl is, or from inside a pod."""

    def __init__(self, profile: KubernetesProfile) -> None:
        import kubernetes
        from urllib3.exceptions import HTTPError

        self._namespace = profile.namespace
        self._errors = (kubernetes.client.ApiException, OSError, HTTPError)
        try:
            try:
                kubernetes.config.load_incluster_config()
            except kubernetes.config.ConfigException:
                kubernetes.config.load_kube_config()
        except (kubernetes.config.ConfigException, OSError) as error:
            raise SohesError(f"no Kubernetes cluster is configured ({error}): set KUBECONFIG") from None
        self._batch, self._core = kubernetes.client.BatchV1Api(), kubernetes.client.CoreV1Api()

    def create(self, manifests: list[dict[str, Any]]) -> None:
        """Create what does not exist yet; after a restart of the caller some of it does."""
        for manifest in manifests:
            make = (
                self._batch.create_namespaced_job if manifest["kind"] == "Job" else self._core.create_namespaced_service
            )
            self._call(make, self._namespace, manifest, known=409)

    def state(self, name: str) -> State:
        """How far a job is."""
        job = self._call(self._batch.read_namespaced_job_status, name, self._namespace, known=404)
        if job is None:
            return State("NotFound")
        done, failed = (
            frozenset(from_ranges(text or "")) for text in (job.status.completed_indexes, job.status.failed_indexes)
        )
        for condition in job.status.conditions or ():
            if condition.status == "True" and condition.type in ("Complete", "Failed"):
                end = "" if condition.type == "Complete" else f"{condition.reason}: {condition.message}"
                return State(end, done, failed)
        return State(None, done, failed)

    def pods(self, name: str, index: int | None = None) -> list[str]:
        """The pods of a job or of an index of it, oldest first; pods of the same second by the number of their node."""
        selector = f"job-name={name}" if index is None else f"job-name={name},{INDEX}={index}"
        found = self._call(self._core.list_namespaced_pod, self._namespace, label_selector=selector).items

        def place(pod: Any) -> tuple[str, int, str]:
            meta = pod.metadata
            index = int((meta.labels or {}).get(INDEX, "0"))
            return str(meta.creation_timestamp or ""), index, meta.name

        return [pod.metadata.name for pod in sorted(found, key=place)]

    def log(self, pod: str, since_seconds: int | None) -> str | None:
        """Lines that begin with their time; None if there is no log yet."""
        options = {} if since_seconds is None else {"since_seconds": since_seconds}
        read = self._core.read_namespaced_pod_log
        return self._call(read, pod, self._namespace, timestamps=True, known=(400, 404), **options)

    def delete(self, name: str) -> None:
        """Delete the job with its pods, and the service that names its nodes."""
        for remove in (self._batch.delete_namespaced_job, self._core.delete_namespaced_service):
            self._call(remove, name, self._namespace, propagation_policy="Background", known=404)

    def _call(
        self, function: Callable[..., Any], *arguments: Any, known: int | tuple[int, ...] = (), **options: Any
    ) -> Any:
        """One answer of the API server, retried while it is overloaded or down; None for a status that is `known`."""
        for attempt in range(1, PATIENCE + 1):
            try:
                return function(*arguments, **options, _request_timeout=30)
            except self._errors as error:
                status = getattr(error, "status", None) or 0
                if status in ((known,) if isinstance(known, int) else known):
                    return None
                temporary = status == 0 or status == 429 or status >= 500
                if not temporary or attempt == PATIENCE:
                    reason = getattr(error, "reason", None) or type(error).__name__
                    kind = TemporaryError if temporary else SohesError
                    raise kind(
                        f"the Kubernetes API refuses ({status} {reason}): fix infra/launch or its rights"
                    ) from None
                time.sleep(min(0.2 * 2**attempt, 10))
        raise AssertionError
