"""infra/kubernetes: the worker, its pool's template and the secrets fit together, and the documentation names them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from infra.check import render_work_pool


@pytest.fixture(scope="module")
def flow_pod(repository) -> dict:
    """The container of the flow's pod, as the pool renders it with its defaults."""
    template = json.loads((repository / "infra/kubernetes/work-pool.json").read_text())
    (container,) = render_work_pool(template)["spec"]["template"]["spec"]["containers"]
    return container


@pytest.fixture(scope="module")
def base(repository) -> dict[str, dict]:
    """The manifests of infra/kubernetes/base by kind; of the worker's Deployment its container."""
    found = {}
    for path in (repository / "infra/kubernetes/base").glob("[!k]*.yaml"):
        found |= {one["kind"]: one for one in yaml.safe_load_all(path.read_text())}
    (found["worker"],) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found


def test_secrets_reach_the_flows_pod_and_one_that_is_not_there_does_not_keep_it_from_starting(flow_pod):
    secrets = [source["secretRef"] for source in flow_pod["envFrom"]]
    assert "sohes-s3" in [secret["name"] for secret in secrets]
    assert all(secret["optional"] for secret in secrets)


def test_the_worker_uses_the_pool_that_deploy_makes_and_none_of_its_own(base, repository):
    command = base["worker"]["command"]
    deployments = yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]
    (pool,) = [one["work_pool"]["name"] for one in deployments if one["name"] == "kubernetes"]
    assert command[command.index("--pool") + 1] == pool
    assert "--no-create-pool-if-not-found" in command


def test_the_worker_watches_only_where_its_role_lets_it(base):
    assert "ClusterRole" not in base
    watched = {one["name"]: one["value"] for one in base["worker"]["env"]}
    assert watched["PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"] == base["Role"]["metadata"]["namespace"]


def test_the_launcher_may_do_what_it_does(base):
    allowed = {
        (resource, verb) for rule in base["Role"]["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert {("jobs", "get"), ("jobs", "create"), ("jobs", "delete"), ("jobs/status", "get"), ("pods", "list"),
            ("pods/log", "get"), ("events", "list"), ("services", "get"), ("services", "create"),
            ("services", "delete")} <= allowed  # fmt: skip


def test_every_secret_that_a_manifest_names_has_a_documented_command(base, flow_pod, repository: Path):
    named = [source["secretRef"] for pod in (base["worker"], flow_pod) for source in pod["envFrom"]]
    text = (repository / "docs/cluster.md").read_text()
    made = re.findall(r"^kubectl -n sohes create secret generic (\S+) ", text, re.MULTILINE)
    assert {secret["name"] for secret in named} == set(made)
