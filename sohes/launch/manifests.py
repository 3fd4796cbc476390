"""What the Kubernetes launcher creates: a Job, and a Service where several nodes train together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sohes.errors import SohesError
from sohes.launch.profile import KubernetesProfile, Resources
from sohes.launch.task import PORT, Task, torchrun, with_python

FINAL = (1, 2)  # exit codes of a command that would end the same way again: an error with its sentence, wrong usage
MANAGED = {"app.kubernetes.io/name": "sohes", "app.kubernetes.io/managed-by": "sohes"}
SUBMISSION = "sohes/submission"  # annotation: whose a Job or Service is


def job_name(submission: str, task: str) -> str:
    """A valid DNS name, unique for the submission and the task, short enough for a pod's host name.

    Only its words are cut; the digest that makes it unique is that of the whole.
    """
    whole = f"{submission}/{task}"
    words = re.sub("[^a-z0-9]+", "-", whole.lower()).strip("-")[:40].strip("-")
    return f"{words}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def render_job(
    task: Task, name: str, root: Path, profile: KubernetesProfile, resources: Resources,
    environment: Mapping[str, str], *, submission: str, train: bool, several: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The manifest of one task. `root` must lie on one of the profile's volumes: the project is not in the image.

    submission: the name of the one that it belongs to, by which its launcher knows it.
    several: make that many pods, each with a deadline and restarts of its own; they look up what each has to do.
    """
    mounted = [volume for volume in profile.volumes if root.is_relative_to(volume.path)]
    if not mounted:
        raise SohesError(f"{root} lies on none of the profile's volumes: mount the project's folder under that path")
    command = with_python(task.command, profile.python)
    together = train and resources.together
    if together:
        head = f"{name}-0.{name}" if resources.nodes > 1 else "127.0.0.1"
        command = torchrun(command, nodes=resources.nodes, processes=resources.processes, head=head, run=name)
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
    if not together:  # torchrun ends with 1 whatever its processes end with
        final = {"containerName": "sohes", "operator": "In", "values": list(FINAL)}
        action = "FailIndex" if several else "FailJob"
        spec["podFailurePolicy"] = {"rules": [{"action": action, "onExitCodes": final}]}
    if several:
        pod["activeDeadlineSeconds"] = spec.pop("activeDeadlineSeconds")
        spec["backoffLimitPerIndex"] = profile.restarts
        del spec["backoffLimit"]
        parallelism = min(profile.at_once, several)
        spec |= {"completionMode": "Indexed", "completions": several, "parallelism": parallelism}
    if profile.service_account is not None:
        pod["serviceAccountName"] = profile.service_account
    if resources.nodes > 1:
        spec |= {"completionMode": "Indexed", "completions": resources.nodes, "parallelism": resources.nodes}
        pod["subdomain"] = name
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(name, profile, submission),
        "spec": spec,
    }


def render_service(
    name: str, profile: KubernetesProfile, resources: Resources, *, submission: str
) -> list[dict[str, Any]]:
    """The service by which nodes find the first of them; none for a single node."""
    if resources.nodes == 1:
        return []
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,  # they wait for each other before any is ready
        "selector": {"sohes/job": name},
        "ports": [{"name": "rendezvous", "port": PORT}],
    }
    metadata = _metadata(name, profile, submission)
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}]


def _metadata(name: str, profile: KubernetesProfile, submission: str) -> dict[str, Any]:
    return {
        "name": name, "namespace": profile.namespace, "labels": MANAGED, "annotations": {SUBMISSION: submission},
    }  # fmt: skip
