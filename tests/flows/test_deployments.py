"""prefect.yaml on a real Prefect server, with a real worker that runs a deployment from it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TERMINAL_STATES
from prefect.events.schemas.automations import AutomationCore
from processes import end_group, processes_with, serving, until

import flows.pipeline
from sohes.params import Params
from sohes.stages import explore, pull

# Prefect and its server use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def deployments(repository: Path) -> list[dict]:
    return yaml.safe_load((repository / "prefect.yaml").read_text())["deployments"]


def test_every_deployment_names_a_flow_a_profile_and_a_limit(deployments, repository):
    names = [deployment["name"] for deployment in deployments]
    assert len(set(names)) == len(names)
    profiles = {path.stem for path in (repository / "infra/launch").glob("*.yaml")}
    for deployment in deployments:
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert module == "flows.pipeline"  # also where the package is installed
        flow = getattr(flows.pipeline, function)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert deployment["parameters"]["launch"] in profiles
        assert deployment["concurrency_limit"]["limit"] == 1
    variables = {key for d in deployments for key in d["work_pool"].get("job_variables", {})}
    assert "gpus" in variables


def test_a_dead_run_is_noticed_after_three_heartbeats_of_any_deployment(deployments, repository):
    (automation,) = yaml.safe_load((repository / "infra/prefect/automations.yaml").read_text())["automations"]
    AutomationCore.model_validate(automation)
    for deployment in deployments:
        every = int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        assert automation["trigger"]["within"] == 3 * every
    assert {state.value for state in TERMINAL_STATES} == {
        event.rpartition(".")[2].upper() for event in automation["trigger"]["expect"] if "heartbeat" not in event
    }


def test_a_second_pipeline_in_the_same_folder_is_refused(tmp_path):
    from sohes.errors import TemporaryError

    refused = pytest.raises(
        TemporaryError, match=rf"is at work on a pipeline in {tmp_path} already: wait until it ends"
    )
    with flows.pipeline.only_one(tmp_path), refused, flows.pipeline.only_one(tmp_path):
        pass
    with flows.pipeline.only_one(tmp_path):  # and it is free again
        pass


def test_a_failure_is_posted_without_the_address_in_any_log(web, monkeypatch, capsys):
    flow, run = SimpleNamespace(name="sohes"), SimpleNamespace(name="brave-fox")
    state = SimpleNamespace(name="Failed", message="stage pull failed: no disk")
    posted = []
    monkeypatch.setenv("SOHES_NOTIFY_URL", f"{web.url}/secret-hook")
    monkeypatch.setattr(
        flows.pipeline.httpx, "post",
        lambda url, json, timeout: posted.append((url, json["text"])) or SimpleNamespace(raise_for_status=lambda: None),
    )  # fmt: skip
    flows.pipeline.tell_failure(flow, run, state)
    assert posted == [(f"{web.url}/secret-hook", "sohes run brave-fox ended as Failed: stage pull failed: no disk")]
    monkeypatch.undo()
    monkeypatch.setenv("SOHES_NOTIFY_URL", f"{web.url}/secret-hook")
    flows.pipeline.tell_failure(flow, run, state)  # the server knows no POST
    told = capsys.readouterr().err
    assert "was not sent" in told
    assert "secret" not in told


@pytest.fixture
def posts() -> Iterator[SimpleNamespace]:
    """A webhook: `url`, and the `texts` that were posted to it."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield SimpleNamespace(url=f"{url}/hook", texts=texts)


def published(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "data/pseudo_labels").iterdir())}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute of silence has to be waited for, besides the work
def test_a_pipeline_whose_worker_dies_is_crashed_and_the_next_run_goes_on_to_the_same_labels(
    server, posts, labelling, deployments, tiny_params, tmp_path_factory, repository, monkeypatch
):
    """kill -9 in the middle of `explore`: first of the flow, which its worker notices, then of all on the machine.

    Of the second nobody is left to tell the server. The third run finishes.
    """
    monkeypatch.setenv("SOHES_WORKERS", "1")
    tiny_params["pull"]["scenes"]["train"] = 24
    tiny_params["explore"]["images_per_shard"] = 1
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    pull.run(Params.model_validate(tiny_params), undisturbed)
    explore.run(Params.model_validate(tiny_params), undisturbed)
    (labelling / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    (labelling / "flows").symlink_to(repository / "flows")
    text = (repository / "prefect.yaml").read_text()
    (labelling / "prefect.yaml").write_text(text.replace('FREQUENCY: "60"', 'FREQUENCY: "30"'))  # the least there is
    path = labelling / "infra/prefect/automations.yaml"
    path.write_text(path.read_text().replace("within: 180", "within: 60"))
    environment = server | {"PYTHONPATH": str(labelling), "SOHES_WORKERS": "1", "SOHES_NOTIFY_URL": posts.url}

    def start_worker() -> subprocess.Popen:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "sohes", "--type", "process"]
        return subprocess.Popen(command, cwd=labelling, env=environment, start_new_session=True)

    everything = [word for deployment in deployments for word in ("--name", deployment["name"])]
    subprocess.run([sys.executable, "-m", "flows.deploy", *everything], cwd=labelling, env=environment, check=True)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("sohes/local")
        assert deployment.global_concurrency_limit.limit == 1
        assert len(client.read_deployments()) == len(deployments)
        parts = lambda: len(list(labelling.glob(".sohes/explore/*/parts/*.json")))  # noqa: E731
        worker = start_worker()
        try:
            run = client.create_flow_run_from_deployment(deployment.id)
            until(lambda: parts() > 0, "explore does not start", worker)
            for pid in processes_with(f"PYTHONPATH={labelling}", "explore", "prefect.engine"):
                os.kill(pid, signal.SIGKILL)
            finished = parts()
            until(lambda: client.read_flow_run(run.id).state.is_crashed(), "the worker does not notice", worker)
            until(lambda: posts.texts, "nobody is told", worker)
            assert posts.texts[0].startswith(f"sohes run {run.name} ended as Crashed")

            run = client.create_flow_run_from_deployment(deployment.id)
            until(lambda: parts() > finished, "explore does not start", worker)
        finally:
            end_group(worker, signal.SIGKILL)
            for pid in processes_with(f"PYTHONPATH={labelling}"):
                os.kill(pid, signal.SIGKILL)
        assert not (labelling / "data/pseudo_labels").exists()
        assert client.read_flow_run(run.id).state.is_running()
        until(lambda: client.read_flow_run(run.id).state.is_final(), "the dead run stays as it is")
        assert client.read_flow_run(run.id).state.is_crashed()
        assert "heartbeat stopped" in client.read_flow_run(run.id).state.message
        for automation in client.read_automations_by_name("sohes-dead-runs"):
            client.delete_automation(automation.id)  # so hasty a one could take a busy machine for a dead one
        worker = start_worker()
        try:
            run = client.create_flow_run_from_deployment(deployment.id)
            until(lambda: client.read_flow_run(run.id).state.is_final(), "the third run does not end", worker)
            assert client.read_flow_run(run.id).state.is_completed()
            only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            names = {task.name: task.state_name for task in client.read_task_runs(flow_run_filter=only)}
        finally:
            end_group(worker, signal.SIGINT)
            for pid in processes_with(f"PYTHONPATH={labelling}"):  # none, unless the run did not end
                os.kill(pid, signal.SIGKILL)
    assert names == {"pull": "Cached", "explore": "Completed"}
    assert published(labelling) == published(undisturbed)
