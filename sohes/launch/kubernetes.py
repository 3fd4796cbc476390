"""Tasks as Kubernetes Jobs, by the official client: one Job a task, one pod a node.

The cluster itself enforces deadlines, restarts and clean-up, so nothing is left behind when the caller dies; a caller
that is started again finds the jobs by the names in its ledger.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sohes.errors import SohesError, TemporaryError
from sohes.launch.ledger import Ledger
from sohes.launch.profile import KubernetesProfile, Resources
from sohes.launch.task import LAST_LINES, Launch, Outcome, Task, log_file, pause, torchrun, with_python

PORT = 29400
FAILED = 1
OVERLAP = 30  # seconds of log that are read twice, for lines that the node writes late
PATIENCE = 10  # requests in a row that may fail before we give up
MANAGED = {"app.kubernetes.io/name": "sohes", "app.kubernetes.io/managed-by": "sohes"}


def run_kubernetes(tasks: Sequence[Task], launch: Launch, profile: KubernetesProfile) -> list[Outcome]:
    """Create the Jobs, `at_once` at a time, wait for all, keep their logs and delete them.

    The log of a single task reaches the file and `on_line` while it runs, those of many when each has ended. An
    interruption deletes the Jobs; after kill -9 the next call finds them. SohesError if the API server refuses.
    """
    cluster = Cluster(profile)
    ledger = Ledger(launch.root, "kubernetes", launch.group)
    commands = {task.name: list(task.command) for task in tasks}
    names = {
        name: submission.jobs.get(name, "")
        for submission in ledger.submissions
        for name, command in submission.commands.items()
        if commands.get(name) == command
    }
    resources: Resources = getattr(profile, launch.kind)
    root, train = launch.root, launch.kind == "train"
    outcomes: dict[str, Outcome] = {}
    waiting = list(tasks)
    running: dict[str, Log] = {}
    began = time.monotonic()
    if any(task.name not in names for task in tasks):
        ledger.close()
        submission = ledger.open(list(tasks))
        # We choose the names, so they are written down before any job exists.
        names |= {t.name: names.get(t.name) or job_name(submission.name, t.name) for t in tasks}
        ledger.submitted(submission, names)
    try:
        while waiting or running:
            while waiting and len(running) < profile.at_once:
                task = waiting.pop(0)
                job = render_job(task, names[task.name], root, profile, resources, launch.environment, train=train)
                cluster.create([*render_service(names[task.name], profile, resources), job])
                path = log_file(root, f"{launch.group}-{task.name}")
                running[task.name] = Log(cluster, names[task.name], path, launch.on_line if len(tasks) == 1 else None)
            for task_name, log in list(running.items()):
                state = cluster.state(names[task_name])  # before the log, whose last lines would be lost otherwise
                if state is not None or len(tasks) == 1:
                    log.read()
                if state is None:
                    continue
                outcomes[task_name] = log.outcome(state)
                cluster.delete(names[task_name])
                del running[task_name]
                launch.on_progress(len(outcomes), len(tasks))
            if running:
                time.sleep(pause(time.monotonic() - began, profile.poll_seconds))
    except BaseException:
        # If the API no longer answers, the ledger stays, and the next call finds the jobs.
        with contextlib.suppress(SohesError):
            for task_name in running:
                cluster.delete(names[task_name])
            ledger.close()
        raise
    ledger.close()
    return [outcomes[task.name] for task in tasks]


class Log:
    """The log of one job as it grows: every line of every pod once, into a file and to `on_line`.

    Polled, not followed: no connection has to stay open for days, and a pod that replaces another is found, too. Lines
    are identified by the time stamp that the node puts before each.
    """

    def __init__(self, cluster: Cluster, job: str, path: Path, on_line: Callable[[str], None] | None) -> None:
        self._cluster, self._job, self._path, self._on_line = cluster, job, path, on_line
        self._seen: dict[str, str] = {}  # by pod, the time of the last line
        self._read_at = time.monotonic()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> None:
        """Append the new lines."""
        overlap = round(time.monotonic() - self._read_at) + OVERLAP
        self._read_at = time.monotonic()
        with self._path.open("a", encoding="utf-8") as file:
            for pod in self._cluster.pods(self._job):
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
        return Outcome(FAILED, self._path, (*self._last, f"Kubernetes says {failure} of job {self._job}"))


# ---------------------------------------------------------------- the API


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

    def state(self, name: str) -> str | None:
        """None while it runs, an empty string when it is done, or why it failed."""
        job = self._call(self._batch.read_namespaced_job_status, name, self._namespace, known=404)
        if job is None:
            return "NotFound"
        for condition in job.status.conditions or ():
            if condition.status == "True" and condition.type in ("Complete", "Failed"):
                return "" if condition.type == "Complete" else f"{condition.reason}: {condition.message}"
        return None

    def pods(self, name: str) -> list[str]:
        """The job's pods, oldest first; pods of the same second by the number of their node."""
        found = self._call(self._core.list_namespaced_pod, self._namespace, label_selector=f"job-name={name}").items

        def place(pod: Any) -> tuple[str, int, str]:
            meta = pod.metadata
            index = int((meta.labels or {}).get("batch.kubernetes.io/job-completion-index", "0"))
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


# ---------------------------------------------------------------- manifests


def job_name(submission: str, task: str) -> str:
    """A valid DNS name, unique for the submission and the task, short enough for a pod's host name."""
    digest = hashlib.sha256(task.encode()).hexdigest()[:6]
    word = re.sub("[^a-z0-9]+", "-", task.lower()).strip("-")[:16].strip("-")
    return f"{submission[:28].strip('-')}-{word}-{digest}"


def render_job(
    task: Task, name: str, root: Path, profile: KubernetesProfile, resources: Resources,
    environment: Mapping[str, str], *, train: bool,
) -> dict[str, Any]:  # fmt: skip
    """The manifest of one task. `root` must lie on one of the profile's volumes: the project is not in the image."""
    mounted = [volume for volume in profile.volumes if root.is_relative_to(volume.path)]
    if not mounted:
        raise SohesError(f"{root} lies on none of the profile's volumes: mount the project's folder under that path")
    command = with_python(task.command, profile.python)
    if train and resources.together:
        head = f"{name}-0.{name}" if resources.nodes > 1 else "127.0.0.1"
        command = torchrun(command, resources, head=head, port=PORT, run=name)
    variables = {**profile.environment, **environment, "PYTHONUNBUFFERED": "1"}
    amounts = {"cpu": str(resources.cpus), "memory": f"{resources.memory_gib}Gi"}
    if resources.gpus:
        amounts[profile.gpu_resource] = str(resources.gpus)
    container = {
        "name": "sohes",
        "image": profile.image,
        "command": list(command),
        "workingDir": str(root),
        "env": [{"name": key, "value": value} for key, value in sorted(variables.items())],
        "envFrom": [{"secretRef": {"name": secret}} for secret in profile.secrets],
        "resources": {"limits": amounts, "requests": amounts},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            *({"name": f"volume-{i}", "mountPath": volume.path} for i, volume in enumerate(profile.volumes)),
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": max(1, round(profile.grace_seconds)),
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": profile.user, "runAsGroup": profile.user, "fsGroup": profile.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": profile.node_selector,
        "tolerations": list(profile.tolerations),
        "containers": [container],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{profile.shared_memory_gib}Gi"}},
            *(
                {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": volume.claim}}
                for i, volume in enumerate(profile.volumes)
            ),
        ],
    }  # fmt: skip
    spec = {
        "activeDeadlineSeconds": 60 * resources.minutes,
        "backoffLimit": profile.restarts * resources.nodes,
        "ttlSecondsAfterFinished": profile.keep_seconds,
        "template": {"metadata": {"labels": {**MANAGED, "sohes/job": name}}, "spec": pod},
    }
    if profile.service_account is not None:
        pod["serviceAccountName"] = profile.service_account
    if resources.nodes > 1:
        spec |= {"completionMode": "Indexed", "completions": resources.nodes, "parallelism": resources.nodes}
        pod["subdomain"] = name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": profile.namespace, "labels": MANAGED},
        "spec": spec,
    }


def render_service(name: str, profile: KubernetesProfile, resources: Resources) -> list[dict[str, Any]]:
    """The service by which nodes find the first of them; none for a single node."""
    if resources.nodes == 1:
        return []
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,  # they wait for each other before any is ready
        "selector": {"sohes/job": name},
        "ports": [{"name": "rendezvous", "port": PORT}],
    }
    metadata = {"name": name, "namespace": profile.namespace, "labels": MANAGED}
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}]
