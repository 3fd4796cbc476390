"""The Kubernetes launcher: manifests against the API's schemas, and its behaviour against a recorded API server.

The server below answers as a real one was documented to answer for one Job's life; it schedules nothing.
"""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from processes import serving

from sohes.errors import SohesError
from sohes.launch import KubernetesProfile, Task, load_profile, run_tasks
from sohes.launch.kubernetes import job_name, render_job, render_service

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROOT = Path("/project/sohes")
TASK = Task("00003", ("/here/python", "-m", "sohes", "explore", "--shard", "3"))


@pytest.fixture
def profile(repository: Path) -> KubernetesProfile:
    found = load_profile(repository / "infra/launch", "kubernetes")
    assert isinstance(found, KubernetesProfile)
    return found


def render(profile: KubernetesProfile, **options) -> dict:
    kind = options.pop("kind", "shard")
    return render_job(TASK, "name", ROOT, profile, getattr(profile, kind), {"A": "b"}, train=kind == "train")


@pytest.mark.parametrize("kind", ["shard", "whole", "train"])
@pytest.mark.parametrize("nodes", [1, 4])
def test_manifests_keep_to_the_schema(profile, kind, nodes):
    values = profile.model_dump() | {"secrets": ("s3",), "service_account": "runner", "node_selector": {"gpu": "a100"}}
    values["train"] = values["train"] | {"nodes": nodes}
    full = KubernetesProfile.model_validate(values)
    job = render(full, kind=kind)
    for manifest in (job, *render_service("name", full, getattr(full, kind))):
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):  # that it would notice
        kubernetes_validate.validate(job | {"spec": job["spec"] | {"nodeSelektor": {}}}, "1.34", strict=True)


def test_a_shard_has_its_command_resources_deadline_and_no_rights(profile):
    job = render(profile)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "sohes", "explore", "--shard", "3"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert job["spec"]["activeDeadlineSeconds"] == 480 * 60
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "A", "value": "b"} in container["env"]


def test_training_over_nodes_meets_at_the_first_pod(profile):
    values = profile.model_dump()
    values["train"] = values["train"] | {"nodes": 8}
    job = render(KubernetesProfile.model_validate(values), kind="train")
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["parallelism"] == 8
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:5] == ["python", "-m", "torch.distributed.run", "--nnodes=8", "--nproc-per-node=8"]
    assert "--rdzv-endpoint=name-0.name:29400" in command


def test_a_project_on_no_volume_is_refused(profile):
    with pytest.raises(SohesError, match="/home/me lies on none of the profile's volumes"):
        render_job(TASK, "name", Path("/home/me"), profile, profile.shard, {}, train=False)


def test_names_are_dns_labels_and_differ():
    names = {job_name("sohes-explore-shards-0123abcd", task) for task in ("00001", "00002", "Ä" * 80, "x" * 80)}
    assert len(names) == 4
    assert all(len(name) < 60 and name.replace("-", "").isalnum() and name.isascii() for name in names)


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A recorded API server: each Job is looked at `patience` times, then ends as `ends` says by a word in its name."""
    state = SimpleNamespace(
        jobs={}, looks={}, deleted=[], created=[], faults=[], ends={}, patience=2, most=0, lines={}, asked=[]
    )

    class Handler(BaseHTTPRequestHandler):
        def answer(self, value: object, status: int = 200) -> None:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def trouble(self, status: int) -> None:
            self.answer({"kind": "Status", "status": "Failure", "code": status, "reason": "Trouble"}, status)

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}") if length else {}
            path, _, query = self.path.partition("?")
            name = path.rstrip("/").removesuffix("/status").removesuffix("/log").rpartition("/")[2]
            if state.faults:
                return self.trouble(state.faults.pop(0))
            if self.command == "POST":
                made = body["metadata"]["name"]
                if body["kind"] == "Job":
                    if made in state.jobs:
                        return self.trouble(409)
                    state.jobs[made] = body
                    state.created.append(made)
                    state.most = max(state.most, len(state.jobs))
                return self.answer(body, 201)
            if self.command == "DELETE":
                if name not in state.jobs:
                    return self.trouble(404)
                state.deleted.append(name)
                return self.answer(state.jobs.pop(name))
            if path.endswith("/pods"):
                job = query.partition("job-name%3D")[2].partition("&")[0]
                looks = state.looks.get(job, 0)
                pods = [pod for pod, first, _ in state.lines.get(job[:12], [("pod", 0, [])]) if looks >= first]
                made = [
                    {"name": f"{job}-{pod}", "creationTimestamp": f"2026-01-01T00:00:0{i}Z"}
                    for i, pod in enumerate(pods)
                ]
                return self.answer({"kind": "PodList", "items": [{"metadata": one} for one in made]})
            if path.endswith("/log"):
                state.asked.append(query)
                job, _, pod = name.rpartition("-")
                for known, first, lines in state.lines.get(name[:12], ()):
                    if known == pod:  # one line more at every look
                        return self.answer("".join(f"{line}\n" for line in lines[: state.looks[job] - first + 1]))
                return self.answer(f"2026-01-01T00:00:00.000000000Z hello from {name}\n")
            if name not in state.jobs:
                return self.trouble(404)
            state.looks[name] = state.looks.get(name, 0) + 1
            status: dict = {"active": 1}
            if state.looks[name] > state.patience:
                end = next((value for word, value in state.ends.items() if word in name), "Complete")
                condition = {"type": end, "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
                status = {"conditions": [condition]}
            return self.answer(state.jobs[name] | {"status": status})

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    import kubernetes.config.kube_config

    with serving(Handler) as url:
        cluster = {"name": "c", "cluster": {"server": url}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {}}]
        config = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "users": users}
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config | {"current-context": "c"}))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(kubernetes.config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield state


def quick(profile: KubernetesProfile, root: Path, **changes) -> KubernetesProfile:
    values = profile.model_dump() | {"poll_seconds": 0.01, "volumes": ({"claim": "c", "path": str(root)},)}
    return KubernetesProfile.model_validate(values | changes)


def tasks(count: int) -> list[Task]:
    return [Task(f"{n:05d}", ("python", "-m", "sohes", "explore", "--shard", str(n))) for n in range(count)]


def test_jobs_are_created_watched_logged_and_removed(api, profile, tmp_path):
    api.ends = {"00002": "Failed"}
    api.faults = [503]
    seen = []
    outcomes = run_tasks(
        tasks(5), kind="shard", group="explore", root=tmp_path, profile=quick(profile, tmp_path, at_once=2),
        on_progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 1, 0, 0]
    assert "Kubernetes says DeadlineExceeded: too long" in outcomes[2].last_lines[-1]
    assert outcomes[0].last_lines[0].startswith("hello from sohes-explore-")
    assert sorted(api.deleted) == sorted(api.created)
    assert (api.jobs, api.most, seen[-1]) == ({}, 2, (5, 5))
    assert not list((tmp_path / ".sohes/launch").iterdir())


def test_an_interruption_removes_the_jobs_and_a_restarted_caller_finds_them(api, profile, tmp_path, monkeypatch):
    there = quick(profile, tmp_path)
    api.patience = 50
    import sohes.launch.kubernetes as module

    def stop(_: float) -> None:
        raise SystemExit

    # Killed: nothing is cleaned up.
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", stop)
        patch.setattr(module.Cluster, "delete", lambda *_: None)
        patch.setattr(module.Ledger, "close", lambda self: None)
        with pytest.raises(SystemExit):
            run_tasks(tasks(2), kind="shard", group="g", root=tmp_path, profile=there)
    first = list(api.created)
    api.patience = 0
    outcomes = run_tasks(tasks(2), kind="shard", group="g", root=tmp_path, profile=there)
    assert [outcome.exit_code for outcome in outcomes] == [0, 0]
    assert api.created == first  # the same jobs, not others
    api.patience = 50
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", stop)
        with pytest.raises(SystemExit):
            run_tasks(tasks(2), kind="shard", group="g", root=tmp_path, profile=there)
    assert api.jobs == {}


def stamped(second: int, *words: str) -> list[str]:
    return [f"2026-01-01T00:00:{second + n:02d}.000000000Z {word}" for n, word in enumerate(words)]


def test_the_log_of_a_job_is_heard_while_it_runs_every_line_once_also_of_a_pod_that_replaces_another(
    api, profile, tmp_path
):
    api.patience, api.ends = 5, {"sohes": "Failed"}
    api.lines = {"sohes-explor": [("a", 0, stamped(0, "one", "two two")), ("b", 3, stamped(5, "three", "", "four"))]}
    heard: list[tuple[str, int]] = []

    def hear(line: str) -> None:
        heard.append((line, max(api.looks.values())))

    (outcome,) = run_tasks(
        tasks(1), kind="whole", group="explore", root=tmp_path, profile=quick(profile, tmp_path), on_line=hear
    )
    assert [line for line, _ in heard] == ["one", "two two", "three", "", "four"]
    assert [look for _, look in heard[:3]] == [1, 1, 3]  # at the first look and the third of six
    assert outcome.log.read_text() == "one\ntwo two\nthree\n\nfour\n"
    assert outcome.exit_code == 1
    assert outcome.last_lines[-2:] == ("four", f"Kubernetes says DeadlineExceeded: too long of job {api.created[0]}")
    assert sum("sinceSeconds" in query for query in api.asked) > 2  # not the whole log every time


def test_whoever_stops_listening_leaves_no_job(api, profile, tmp_path):
    api.patience = 50

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks(1), kind="whole", group="g", root=tmp_path, profile=quick(profile, tmp_path), on_line=interrupt)
    assert api.jobs == {}
    assert not list((tmp_path / ".sohes/launch").iterdir())


def test_an_api_that_no_longer_lets_go_of_jobs_leaves_their_names_for_the_next_caller(api, profile, tmp_path):
    api.patience = 50

    def interrupt(line: str) -> None:
        api.faults = [403]  # the answer to the first deletion
        raise KeyboardInterrupt

    there = quick(profile, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(tasks(1), kind="whole", group="g", root=tmp_path, profile=there, on_line=interrupt)
    assert len(api.jobs) == 1
    api.patience = 0
    (outcome,) = run_tasks(tasks(1), kind="whole", group="g", root=tmp_path, profile=there)
    assert outcome.exit_code == 0
    assert (len(api.created), api.jobs) == (1, {})


def test_what_the_api_refuses_is_one_sentence(api, profile, tmp_path):
    api.faults = [403]
    with pytest.raises(SohesError, match="the Kubernetes API refuses"):
        run_tasks(tasks(1), kind="shard", group="g", root=tmp_path, profile=quick(profile, tmp_path))
