"""The few calls of the Kubernetes API that the launcher needs, by the official client, retried where that may help."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sohes.errors import SohesError, TemporaryError, first_sentence
from sohes.launch.manifests import SUBMISSION
from sohes.launch.profile import KubernetesProfile
from sohes.work.pool import from_ranges

PATIENCE = 10  # requests in a row that may fail before we give up
PATIENCE_FOR_LOGS = 4  # a node that is lost answers for its pods no more, and the job goes on elsewhere
RETRIED = (0, 408, 409, 410, 429)  # and 5xx; 0: no answer
LONGEST_WAIT = 60  # seconds between two tries, if the server asks for it
NEVER_STARTS = (
    "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError",
    "CreateContainerError",
)  # fmt: skip
INDEX = "batch.kubernetes.io/job-completion-index"  # a pod's label


@dataclass(frozen=True)
class Pod:
    """A pod of a job. ended: the time at which its command did, and empty before. exit_code: of that command.

    An evicted pod may have neither.
    """

    name: str
    ended: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class State:
    """Of a job: None while it runs, an empty string when it is done, or why it failed; and the indexes that ended.

    active, ready: how many pods it has now, and how many of them run.
    """

    job: str | None
    done: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    active: int = 0
    ready: int = 0

    def of(self, index: int | None) -> str | None:
        """The same of one of its indexes; of the whole job for None."""
        if index is None or index not in self.done | self.failed:
            return self.job
        return "" if index in self.done else "Failed"


class Taken(SohesError):
    """The name of something that was to be made belongs to somebody else's."""


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
        configuration = kubernetes.client.Configuration.get_default_copy()
        configuration.retries = False  # `_call` retries; urllib3 would, too, at once and with a warning each time
        client = kubernetes.client.ApiClient(configuration)
        self._batch, self._core = kubernetes.client.BatchV1Api(client), kubernetes.client.CoreV1Api(client)

    def create(self, manifests: list[dict[str, Any]]) -> None:
        """Create what does not exist yet; after a restart of the caller some of it does.

        Taken if something of that name belongs to another submission.
        """
        make: Callable[..., Any]
        read: Callable[..., Any]
        for manifest in manifests:
            if manifest["kind"] == "Job":
                make, read = self._batch.create_namespaced_job, self._batch.read_namespaced_job
            else:
                make, read = self._core.create_namespaced_service, self._core.read_namespaced_service
            if self._call(make, self._namespace, manifest, known=409) is None:
                name, ours = manifest["metadata"]["name"], manifest["metadata"]["annotations"][SUBMISSION]
                found = self._call(read, name, self._namespace, known=404)
                if found is None:  # deleted in between
                    self._call(make, self._namespace, manifest)
                elif (found.metadata.annotations or {}).get(SUBMISSION) != ours:
                    raise Taken(
                        f"there is a {manifest['kind']} {name} in namespace {self._namespace} that is not of {ours}: "
                        "delete it if nobody needs it, and run the same command again"
                    )

    def state(self, name: str) -> State:
        """How far a job is."""
        job = self._call(self._batch.read_namespaced_job_status, name, self._namespace, known=404)
        if job is None:
            return State("NotFound (somebody deleted it: run the same command again)")
        done, failed = (
            frozenset(from_ranges(text or "")) for text in (job.status.completed_indexes, job.status.failed_indexes)
        )
        for condition in job.status.conditions or ():
            if condition.status == "True" and condition.type in ("Complete", "Failed"):
                end = "" if condition.type == "Complete" else f"{condition.reason}: {condition.message}"
                return State(end, done, failed)
        return State(None, done, failed, job.status.active or 0, job.status.ready or 0)

    def pods(self, name: str, index: int | None = None) -> list[Pod]:
        """The pods of a job or of an index of it, oldest first; pods of the same second by the number of their node."""
        selector = f"job-name={name}" if index is None else f"job-name={name},{INDEX}={index}"
        found = self._call(self._core.list_namespaced_pod, self._namespace, label_selector=selector).items

        def place(pod: Any) -> tuple[str, int, str]:
            meta = pod.metadata
            index = int((meta.labels or {}).get(INDEX, "0"))
            return str(meta.creation_timestamp or ""), index, meta.name

        return [_pod(pod) for pod in sorted(found, key=place)]

    def hindrances(self, name: str) -> dict[str, str]:
        """What keeps pods of a job from starting, and Kubernetes's words for each."""
        pods = self._call(
            self._core.list_namespaced_pod, self._namespace, label_selector=f"job-name={name}",
            field_selector="status.phase=Pending", limit=10,
        ).items  # fmt: skip
        found: dict[str, str] = {}
        for status in (pod.status for pod in pods if pod.status):
            waiting = [one.state.waiting for one in status.container_statuses or () if one.state and one.state.waiting]
            unscheduled = [one for one in status.conditions or () if one.reason == "Unschedulable"]
            found |= {one.reason: one.message or "" for one in waiting if one.reason in NEVER_STARTS}
            found |= {one.reason: one.message or "" for one in unscheduled}
        if not pods:  # the job could not make any, or all of them run
            selector = f"involvedObject.kind=Job,involvedObject.name={name},reason=FailedCreate"
            events = self._call(
                self._core.list_namespaced_event, self._namespace, field_selector=selector, limit=10, known=403
            )
            found |= {event.reason: event.message or "" for event in (events.items if events else ())}
        return found

    def log(self, pod: str, since_seconds: int | None) -> str | None:
        """Lines that begin with their time; None if there is no log yet, or its node does not answer."""
        options = {} if since_seconds is None else {"since_seconds": since_seconds}
        read = self._core.read_namespaced_pod_log
        try:
            return self._call(
                read, pod, self._namespace, timestamps=True, known=(400, 404), patience=PATIENCE_FOR_LOGS, **options
            )
        except TemporaryError:
            return None

    def delete(self, name: str) -> None:
        """Delete the job with its pods, and the service that names its nodes."""
        for remove in (self._batch.delete_namespaced_job, self._core.delete_namespaced_service):
            self._call(remove, name, self._namespace, propagation_policy="Background", known=404)

    def _call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        known: int | tuple[int, ...] = (),
        patience: int = PATIENCE,
        **options: Any,
    ) -> Any:
        """One answer of the API server, retried while it is overloaded or down; None for a status that is `known`."""
        for attempt in range(1, patience + 1):
            try:
                return function(*arguments, **options, _request_timeout=30)
            except self._errors as error:
                status = getattr(error, "status", None) or 0
                if status in ((known,) if isinstance(known, int) else known):
                    return None
                if status not in RETRIED and status < 500:
                    raise SohesError(
                        f"the Kubernetes API refuses ({_words(error)}): fix infra/launch, its rights or its quota"
                    ) from None
                if attempt == patience:
                    raise TemporaryError(
                        f"the Kubernetes API does not answer as it should, {patience} times in a row "
                        f"({_words(error)}): jobs that were made go on, and the same command finds them"
                    ) from None
                time.sleep(max(min(0.2 * 2**attempt, 10), _asked_to_wait(error)))
        raise AssertionError


def _pod(found: Any) -> Pod:
    for status in (found.status and found.status.container_statuses) or ():  # it has one container
        if status.state and (end := status.state.terminated):
            return Pod(found.metadata.name, str(end.finished_at or ""), end.exit_code)
    return Pod(found.metadata.name)


def _words(error: Any) -> str:
    """The server's own: status, reason and message."""
    status, reason = getattr(error, "status", None), getattr(error, "reason", None) or type(error).__name__
    said = f"{status} {reason}" if status else first_sentence(reason)
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return f"{said}: {json.loads(error.body)['message']}"
    return said


def _asked_to_wait(error: Any) -> float:
    """Seconds that the server wants to be left alone; 0 if it does not say."""
    text = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return min(int(text), LONGEST_WAIT) if text.isdecimal() else 0
