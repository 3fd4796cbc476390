"""The Kubernetes launcher: manifests against the API's schemas, and its behaviour against a recorded API server.

The server below answers as a real one was documented to answer for one Job's life; it schedules nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from processes import serving

from sohes.errors import SohesError, TemporaryError
from sohes.launch import KubernetesProfile, Task, load_profile, run_tasks
from sohes.launch.indexed import read_commands
from sohes.launch.kubernetes import Log
from sohes.launch.ledger import Ledger
from sohes.launch.manifests import SUBMISSION, job_name, render_job, render_service
from sohes.work.pool import as_ranges

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
    train = kind == "train"
    return render_job(
        TASK, "name", ROOT, profile, getattr(profile, kind), {"A": "b"}, submission="s", train=train, **options
    )


@pytest.mark.parametrize(
    ("kind", "several", "nodes"),
    [("shard", 0, 1), ("shard", 925, 1), ("whole", 0, 1), ("train", 0, 1), ("train", 0, 4)],
)
def test_manifests_keep_to_the_schema(profile, kind, several, nodes):
    values = profile.model_dump() | {"secrets": ("s3",), "service_account": "runner", "node_selector": {"gpu": "a100"}}
    values["train"] = values["train"] | {"nodes": nodes}
    full = KubernetesProfile.model_validate(values)
    job = render(full, kind=kind, several=several)
    for manifest in (job, *render_service("name", full, getattr(full, kind), submission="s")):
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


def test_many_shards_are_the_indexes_of_one_job_each_with_its_own_deadline_and_restarts(profile):
    spec = render(profile, several=925)["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 925, 64)
    assert (spec["backoffLimitPerIndex"], "backoffLimit" in spec) == (3, False)
    # The job's own deadline would be that of all 925 together.
    assert "activeDeadlineSeconds" not in spec
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 480 * 60
    assert render(profile, several=7)["spec"]["parallelism"] == 7


@pytest.mark.parametrize(("kind", "several", "action"), [("whole", 0, "FailJob"), ("shard", 925, "FailIndex")])
def test_a_final_error_is_not_repeated_and_all_others_are(profile, kind, several, action):
    spec = render(profile, kind=kind, several=several)["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["operator"], rule["onExitCodes"]["values"]) == (action, "In", [1, 2])
    # What the API asks of such a rule beyond its schema.
    (container,) = spec["template"]["spec"]["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert ("backoffLimitPerIndex" in spec) == (action == "FailIndex")


@pytest.mark.parametrize("gpus", [0, 8])
def test_torchruns_exit_code_says_nothing_about_what_failed(profile, gpus):
    values = profile.model_dump() | {"train": profile.train.model_dump() | {"gpus": gpus}}
    spec = render(KubernetesProfile.model_validate(values), kind="train")["spec"]
    assert ("podFailurePolicy" in spec) == (gpus == 0)


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
        render_job(TASK, "name", Path("/home/me"), profile, profile.shard, {}, submission="s", train=False)


def test_names_are_dns_labels_and_differ():
    names = {job_name("sohes-explore-shards-0123abcd", task) for task in ("00001", "00002", "Ä" * 80, "x" * 80)}
    assert len(names) == 4
    assert all(len(name) < 60 and name.replace("-", "").isalnum() and name.isascii() for name in names)


def test_names_differ_however_long_the_group_is_and_whichever_part_does(tmp_path):
    groups = [f"ablate-table-2-{word * 9}" for word in ("theta-0.6-", "theta-0.5-")]
    submissions = [Ledger(tmp_path, "kubernetes", group).open([TASK], "d").name for group in groups * 2]
    names = {job_name(submission, task) for submission in submissions for task in ("row", "row-" * 30, "row-" * 31)}
    assert len(names) == 4 * 3
    assert max(map(len, names)) < 56  # with -11099 of an index it is a host name, of 63 letters at most


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A recorded API server: each Job is looked at `patience` times, then ends as `ends` says by a word in its name.

    Of an Indexed Job, as many indexes as are parallel end at each look after that; those in `broken` fail.
    faults: what the next requests meet: a status, (status, headers, message), `silent` (nothing happens, and the
    connection is closed) or `cut` (what was asked for happens, and the connection is closed). lost: pods whose node no
    longer answers for their logs. codes: what pods ended with, by the ends of their names, the last to end last.
    pending: pods that do not start. events: of jobs. deleted_at: the look from which on somebody has deleted the job.
    """
    state = SimpleNamespace(
        jobs={}, looks={}, deleted=[], created=[], faults=[], ends={}, broken=(), patience=2, lines={}, asked=[],
        calls=0, lost=(), pending=[], events=[], deleted_at=10**9, services={},
        codes={},
    )  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def answer(self, value: object, status: int = 200, **headers: str) -> None:
            if self.fault == "cut":
                self.close_connection = True
                return
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(data)

        def trouble(self, status: int, message: str = "", **headers: str) -> None:
            body = {"kind": "Status", "status": "Failure", "code": status, "reason": "Trouble", "message": message}
            self.answer(body, status, **headers)

        def handle_any(self) -> None:
            state.calls += 1
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length) or b"{}") if length else {}
            path, _, query = self.path.partition("?")
            name = path.rstrip("/").removesuffix("/status").removesuffix("/log").rpartition("/")[2]
            self.fault = state.faults.pop(0) if state.faults else None
            if self.fault == "silent":
                self.close_connection = True
                return None
            if isinstance(self.fault, int):
                return self.trouble(self.fault)
            if isinstance(self.fault, tuple):
                status, headers, message = self.fault
                return self.trouble(status, message, **headers)
            if self.command == "POST":
                made = body["metadata"]["name"]
                if body["kind"] == "Job":
                    if made in state.jobs:
                        return self.trouble(409)
                    state.jobs[made] = body
                    state.created.append(made)
                elif state.services.setdefault(made, body) is not body:
                    return self.trouble(409)
                return self.answer(body, 201)
            if self.command == "DELETE" and "/services/" in path:
                return self.trouble(404) if state.services.pop(name, None) is None else self.answer({})
            if "/services/" in path:
                return self.answer(state.services[name])
            if self.command == "DELETE":
                if name not in state.jobs:
                    return self.trouble(404)
                state.deleted.append(name)
                return self.answer(state.jobs.pop(name))
            if path.endswith("/events"):
                return self.answer({"kind": "EventList", "items": state.events})
            if path.endswith("/pods") and "Pending" in query:
                return self.answer({"kind": "PodList", "items": state.pending})
            if path.endswith("/pods"):
                job, _, index = query.partition("job-name%3D")[2].partition("&")[0].partition("%2C")
                if index:
                    made = [{"name": f"{job}-{index.rpartition('%3D')[2]}-pod"}]
                    return self.answer({"kind": "PodList", "items": [self.pod(one) for one in made]})
                looks = state.looks.get(job, 0)
                pods = [pod for pod, first, _ in state.lines.get(job[:12], [("pod", 0, [])]) if looks >= first]
                made = [
                    {"name": f"{job}-{pod}", "creationTimestamp": f"2026-01-01T00:00:0{i}Z"}
                    for i, pod in enumerate(pods)
                ]
                return self.answer({"kind": "PodList", "items": [self.pod(one) for one in made]})
            if path.endswith("/log"):
                state.asked.append(query)
                if name.rpartition("-")[2] in state.lost:
                    return self.trouble(500, "dial tcp 10.0.0.7:10250: connect: no route to host")
                job, _, pod = name.rpartition("-")
                for known, first, lines in state.lines.get(name[:12], ()):
                    if known == pod:  # one line more at every look
                        return self.answer("".join(f"{line}\n" for line in lines[: state.looks[job] - first + 1]))
                return self.answer(f"2026-01-01T00:00:00.000000000Z hello from {name}\n")
            if name not in state.jobs:
                return self.trouble(404)
            if not path.endswith("/status"):
                return self.answer(state.jobs[name])
            state.looks[name] = state.looks.get(name, 0) + 1
            if state.looks[name] >= state.deleted_at:
                state.deleted.append(name)
                del state.jobs[name]
                return self.trouble(404)
            spec = state.jobs[name]["spec"]
            if "backoffLimitPerIndex" in spec:
                return self.answer(state.jobs[name] | {"status": self.indexes(spec, state.looks[name])})
            status: dict = {"active": 1}
            if state.looks[name] > state.patience:
                end = next((value for word, value in state.ends.items() if word in name), "Complete")
                condition = {"type": end, "status": "True", "reason": "DeadlineExceeded", "message": "too long"}
                status = {"conditions": [condition]}
            return self.answer(state.jobs[name] | {"status": status})

        def pod(self, metadata: dict) -> dict:
            code = next((value for word, value in state.codes.items() if metadata["name"].endswith(word)), None)
            if code is None:
                return {"metadata": metadata}
            second = list(state.codes.values()).index(code)
            ended = {"terminated": {"exitCode": code, "finishedAt": f"2026-01-01T00:01:0{second}Z"}}
            status = {"name": "sohes", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
            return {"metadata": metadata, "status": {"phase": "Failed", "containerStatuses": [status]}}

        def indexes(self, spec: dict, looks: int) -> dict:
            ended = range(min(spec["completions"], max(0, looks - state.patience) * spec["parallelism"]))
            failed = [index for index in ended if index in state.broken]
            status = {"completedIndexes": as_ranges([index for index in ended if index not in failed])}
            status["failedIndexes"] = as_ranges(failed)
            if len(ended) == spec["completions"]:
                condition = {"reason": "FailedIndexes", "message": "Job has failed indexes"}
                status["conditions"] = [{"type": "Failed" if failed else "Complete", "status": "True", **condition}]
            return status

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


def test_many_tasks_are_one_job_that_is_watched_logged_and_removed(api, profile, tmp_path):
    api.broken = {2}
    api.faults = [503]
    seen = []
    outcomes = run_tasks(
        tasks(5), kind="shard", group="explore", root=tmp_path, profile=quick(profile, tmp_path, at_once=2),
        on_progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert [outcome.exit_code for outcome in outcomes] == [0, 0, 1, 0, 0]
    (job,) = api.created
    assert outcomes[2].last_lines == (f"hello from {job}-2-pod", f"Kubernetes says Failed of index 2 of job {job}")
    assert outcomes[4].log.read_text() == f"hello from {job}-4-pod\n"
    assert seen == [(n, 5) for n in range(1, 6)]
    assert (api.jobs, api.deleted) == ({}, [job])
    assert not list((tmp_path / ".sohes/launch").iterdir())


def test_a_pod_does_what_its_index_says_under_the_python_of_the_image(api, profile, tmp_path, monkeypatch, repository):
    api.patience = 10**6
    there = quick(profile, tmp_path, python=sys.executable)
    said: list[str] = []

    def be_the_pods(_: float) -> None:
        (job,) = api.jobs.values()
        (container,) = job["spec"]["template"]["spec"]["containers"]
        for index in range(job["spec"]["completions"]):
            environment = {**os.environ, "JOB_COMPLETION_INDEX": str(index), "PYTHONPATH": str(repository)}
            done = subprocess.run(container["command"], env=environment, capture_output=True, text=True, check=False)
            said.append(f"{done.stdout.strip()} {done.returncode}")
        raise SystemExit

    monkeypatch.setattr("sohes.launch.kubernetes.time.sleep", be_the_pods)
    work = [Task(f"{n}", ("python", "-c", f"import sys; print('shard', {n}); sys.exit({n})")) for n in range(3)]
    with pytest.raises(SystemExit):
        run_tasks(work, kind="shard", group="g", root=tmp_path, profile=there)
    assert said == ["shard 0 0", "shard 1 1", "shard 2 2"]


def test_11100_shards_are_one_job_and_each_look_at_it_is_one_request(api, profile, tmp_path):
    shards = tasks(925)  # of twelve shards each
    outcomes = run_tasks(shards, kind="shard", group="explore", root=tmp_path, profile=quick(profile, tmp_path))
    assert {outcome.exit_code for outcome in outcomes} == {0}
    looks = api.looks[api.created[0]]
    assert (len(api.created), looks) == (1, 2 + -(-925 // 64))
    # Of each task the pods are listed and their log is read; the job is made, and deleted with its service.
    assert api.calls == looks + 2 * 925 + 1 + 2


def test_an_interruption_removes_the_job_and_a_restarted_caller_finds_it(api, profile, tmp_path, monkeypatch):
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
        patch.setattr(module.Path, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            run_tasks(tasks(4), kind="shard", group="g", root=tmp_path, profile=there)
    (first,) = api.created
    api.patience, api.broken = 0, {3}
    # Those that were finished meanwhile are no longer among the tasks; a new one has a job of its own.
    outcomes = run_tasks(tasks(6)[2:5], kind="shard", group="g", root=tmp_path, profile=there)
    assert [outcome.exit_code for outcome in outcomes] == [0, 1, 0]
    assert api.created[0] == first
    assert len(api.created) == 2
    assert outcomes[1].last_lines[-1] == f"Kubernetes says Failed of index 3 of job {first}"
    assert api.jobs == {}
    assert not list((tmp_path / ".sohes/launch").iterdir())
    api.patience = 50
    with monkeypatch.context() as patch:
        patch.setattr(module.time, "sleep", stop)
        with pytest.raises(SystemExit):
            run_tasks(tasks(2), kind="shard", group="g", root=tmp_path, profile=there)
    assert api.jobs == {}


def test_jobs_of_other_commands_are_deleted_before_new_ones_are_made(api, profile, tmp_path, monkeypatch):
    api.patience = 10**6
    import sohes.launch.kubernetes as module

    def stop(_: float) -> None:
        raise SystemExit

    monkeypatch.setattr(module.time, "sleep", stop)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_forget", lambda *_: None)
        with pytest.raises(SystemExit):
            run_tasks(tasks(3), kind="shard", group="g", root=tmp_path, profile=quick(profile, tmp_path))
    (first,) = api.created
    assert read_commands(tmp_path / f".sohes/launch/{first}.commands.json")[2][-1] == "2"
    others = [Task(task.name, (*task.command, "--params", "other.yaml")) for task in tasks(3)]
    with pytest.raises(SystemExit):
        run_tasks(others, kind="shard", group="g", root=tmp_path, profile=quick(profile, tmp_path))
    assert (len(api.created), api.deleted[0]) == (2, first)
    assert not list((tmp_path / ".sohes/launch").iterdir())


@pytest.mark.parametrize("changed", ["inputs", "image", "poll_seconds"])
def test_a_job_that_ended_before_an_edit_is_no_answer_to_it(api, profile, tmp_path, changed):
    """The first call's jobs stay, since what it made could not be recorded."""
    there = quick(profile, tmp_path)

    def refuse() -> None:
        raise SohesError("dvc commit failed")

    options = {"kind": "shard", "group": "g", "root": tmp_path}
    with pytest.raises(SohesError, match="dvc commit failed"):
        run_tasks(tasks(2), **options, profile=there, inputs="a", record=refuse)
    (first,) = api.jobs
    recorded = []
    values = {"image": "sohes:next"} if changed == "image" else {"poll_seconds": 0.02}
    inputs = "b" if changed == "inputs" else "a"
    run_tasks(
        tasks(2), **options, profile=quick(profile, tmp_path, **values), inputs=inputs,
        record=lambda: recorded.append(1),
    )  # fmt: skip
    assert len(api.created) == (1 if changed == "poll_seconds" else 2)
    assert first in api.deleted
    assert (recorded, api.jobs) == ([1], {})


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


@pytest.mark.parametrize(
    ("codes", "code"),
    [({"-a": 137, "-b": 75}, 75), ({"-b": 75, "-a": 2}, 2), ({"-a": 75, "-b": 0}, 75), ({"-b": 137}, 137), ({}, 1)],
)
def test_a_job_fails_with_the_exit_code_of_the_pod_that_failed_last(api, profile, tmp_path, codes, code):
    api.ends, api.codes = {"sohes": "Failed"}, codes
    api.lines = {"sohes-explor": [("a", 0, stamped(0, "one")), ("b", 1, stamped(5, "two"))]}
    (outcome,) = run(1, profile, tmp_path)
    assert outcome.exit_code == code


def test_an_index_fails_with_the_exit_code_of_its_own_pod(api, profile, tmp_path):
    api.broken, api.codes = {0, 1, 2}, {"-0-pod": 75, "-1-pod": 2}
    assert [outcome.exit_code for outcome in run(4, profile, tmp_path)] == [75, 2, 1, 0]


# ---------------------------------------------------------------- faults of the cluster

KINDS = pytest.mark.parametrize("count", [1, 3], ids=["a plain job", "an indexed job"])


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the launcher would have slept; it does not."""
    seconds: list[float] = []
    monkeypatch.setattr("sohes.launch.kubernetes.time.sleep", seconds.append)
    return seconds


def run(count: int, profile: KubernetesProfile, root: Path, heard: list[str] | None = None):
    hear = (lambda line: None) if heard is None else heard.append
    kind = "whole" if count == 1 else "shard"
    return run_tasks(tasks(count), kind=kind, group="explore", root=root, profile=quick(profile, root), on_line=hear)


@KINDS
@pytest.mark.parametrize(
    "faults",
    [
        ["silent"] * 5 + [503, 503],  # it restarts
        ["cut"],  # the job was made, though nobody heard so
        [None, "cut", 410, 409, 408, 504, "cut"],
    ],
)
def test_a_server_that_restarts_or_is_interrupted_is_asked_again(api, profile, tmp_path, slept, count, faults):
    api.faults = list(faults)
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path)} == {0}
    assert (len(api.created), api.jobs, api.faults) == (1, {}, [])


@KINDS
def test_a_server_that_wants_to_be_left_alone_is(api, profile, tmp_path, slept, count):
    api.faults = [(429, {"Retry_After": "7"}, "too many requests"), None, (429, {"Retry_After": "9999"}, ""), 429]
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path)} == {0}
    assert 7 in slept
    assert max(slept) <= 60


@KINDS
def test_an_api_that_is_gone_leaves_the_jobs_to_the_next_caller(api, profile, tmp_path, slept, count):
    api.patience = 5
    api.faults = [None] + ["silent"] * 10
    with pytest.raises(TemporaryError, match=r"does not answer as it should, 10 times in a row \(.+\): jobs that"):
        run(count, profile, tmp_path)
    assert len(api.jobs) == 1
    api.faults = []
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path)} == {0}
    assert (len(api.created), api.jobs) == (1, {})


@KINDS
def test_a_quota_of_jobs_is_named(api, profile, tmp_path, slept, count):
    message = "jobs.batch is forbidden: exceeded quota: small, requested: count/jobs.batch=1, limited: 5"
    api.faults = [(403, {}, message)]
    with pytest.raises(SohesError) as error:
        run(count, profile, tmp_path)
    assert not isinstance(error.value, TemporaryError)
    assert str(error.value).startswith(f"the Kubernetes API refuses (403 Forbidden: {message}): fix")


@KINDS
def test_a_job_that_somebody_deletes_fails_with_a_remedy_and_is_made_again(api, profile, tmp_path, slept, count):
    api.patience, api.deleted_at = 5, 3
    outcomes = run(count, profile, tmp_path)
    assert {outcome.exit_code for outcome in outcomes} == {1}
    assert "somebody deleted it: run the same command again" in outcomes[-1].last_lines[-1]
    api.deleted_at = 10**9
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path)} == {0}
    assert len(api.created) == 2


def test_of_a_job_that_is_deleted_half_way_the_finished_indexes_count(api, profile, tmp_path, slept):
    api.deleted_at = 4
    there = quick(profile, tmp_path, at_once=1)
    outcomes = run_tasks(tasks(3), kind="shard", group="g", root=tmp_path, profile=there)
    assert [outcome.exit_code for outcome in outcomes] == [0, 1, 1]


def pending(**status: object) -> dict:
    return {"metadata": {"name": "p"}, "status": {"phase": "Pending", **status}}


def waits_for(reason: str) -> dict:
    waiting = {"reason": reason, "message": f"{reason} of sohes:0.1.0"}
    image = {"name": "sohes", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    return pending(containerStatuses=[image | {"state": {"waiting": waiting}}])


@KINDS
@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_pods_that_can_never_start_end_the_job_with_a_sentence(
    api, profile, tmp_path, slept, monkeypatch, count, reason
):
    monkeypatch.setattr("sohes.launch.kubernetes.LOOK_AT_PODS", 0)
    monkeypatch.setattr("sohes.launch.kubernetes.GIVE_UP", 0.05)
    api.patience, api.pending = 10**6, [waits_for(reason)]
    heard: list[str] = []
    with pytest.raises(SohesError, match=rf"no pod of job .* can start \({reason}: .*: correct the image, the secrets"):
        run(count, profile, tmp_path, heard)
    assert sum(reason in line for line in heard) == 1
    assert api.jobs == {}


@KINDS
@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({"pending": [waits_for("ContainerCreating")]}, None),
        ({"pending": [waits_for("ImagePullBackOff")]}, "ImagePullBackOff"),  # for less long than is given up at
        (
            {"pending": [pending(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                              "message": "0/9 nodes are available: Insufficient nvidia.com/gpu"}])]},
            "Insufficient nvidia.com/gpu",
        ),
        (
            {"events": [{"metadata": {"name": "e"}, "involvedObject": {}, "reason": "FailedCreate",
                         "message": "exceeded quota: pods=64"}]},
            "exceeded quota: pods=64",
        ),
    ],
)  # fmt: skip
def test_pods_that_may_start_later_are_waited_for_and_the_reason_is_told_once(
    api, profile, tmp_path, slept, monkeypatch, count, found, word
):
    monkeypatch.setattr("sohes.launch.kubernetes.LOOK_AT_PODS", 0)
    vars(api).update(found, patience=5)
    heard: list[str] = []
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path, heard)} == {0}
    told = [line for line in heard if " waits: " in line]
    assert len(told) == (word is not None)
    assert all(word in line for line in told)


@KINDS
@pytest.mark.parametrize("theirs", [{SUBMISSION: "sohes-explore-0"}, None])
def test_a_job_of_the_same_name_that_is_anothers_is_neither_waited_for_nor_deleted(
    api, profile, tmp_path, slept, monkeypatch, count, theirs
):
    monkeypatch.setattr("sohes.launch.kubernetes.job_name", lambda submission, task: "taken")
    api.jobs["taken"] = other = {"metadata": {"name": "taken", "annotations": theirs}}
    with pytest.raises(
        SohesError, match=r"there is a Job taken in namespace sohes that is not of sohes-explore-\w{8}:"
    ):
        run(count, profile, tmp_path)
    assert api.jobs == {"taken": other}
    assert not list((tmp_path / ".sohes/launch").iterdir())
    monkeypatch.setattr("sohes.launch.kubernetes.job_name", job_name)
    assert {outcome.exit_code for outcome in run(count, profile, tmp_path)} == {0}


def test_a_service_of_the_same_name_that_is_anothers_is_not_used(api, profile, tmp_path, slept, monkeypatch):
    monkeypatch.setattr("sohes.launch.kubernetes.job_name", lambda submission, task: "taken")
    api.services["taken"] = other = {"metadata": {"name": "taken"}}
    there = quick(profile, tmp_path, train=profile.train.model_dump() | {"nodes": 2})
    with pytest.raises(SohesError, match="there is a Service taken in namespace sohes that is not of sohes-g-"):
        run_tasks(tasks(1), kind="train", group="g", root=tmp_path, profile=there)
    assert (api.services, api.jobs) == ({"taken": other}, {})


def test_the_log_of_a_lost_node_does_not_end_a_job_that_goes_on_elsewhere(api, profile, tmp_path, slept):
    """The node of pod a is lost; its job makes pod b."""
    api.patience, api.lost = 5, ("a",)
    api.lines = {"sohes-explor": [("a", 0, stamped(0, "never read")), ("b", 3, stamped(5, "again", "done"))]}
    heard: list[str] = []
    (outcome,) = run(1, profile, tmp_path, heard)
    assert outcome.exit_code == 0
    assert heard == ["again", "done"]


def test_a_line_of_a_log_with_other_ends_of_lines_in_it_is_kept_whole(tmp_path):
    pod = SimpleNamespace(name="p", exit_code=None, ended="")
    text = "2026-01-01T00:00:01Z 1 %\r2 %\u2028end\n2026-01-01T00:00:02Z next\n"
    cluster = SimpleNamespace(pods=lambda job, index: [pod], log=lambda name, seconds: text)
    heard: list[str] = []
    log = Log(cluster, "job", None, tmp_path / "x.log", heard.append)
    log.read()
    log.read()
    assert heard == ["1 %\r2 %\u2028end", "next"]
