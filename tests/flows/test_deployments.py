"""prefect.yaml on a real Prefect server, with a real worker that runs a deployment from it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import flows.pipeline

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
        file, _, function = deployment["entrypoint"].partition(":")
        assert file == "flows/pipeline.py"
        flow = getattr(flows.pipeline, function)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties)
        assert deployment["parameters"]["launch"] in profiles
        assert deployment["concurrency_limit"]["limit"] == 1
    variables = {key for d in deployments for key in d["work_pool"].get("job_variables", {})}
    assert "gpus" in variables


def test_a_second_pipeline_in_the_same_folder_is_refused(tmp_path):
    from sohes.errors import SohesError

    with (
        flows.pipeline.only_one(tmp_path),
        pytest.raises(SohesError, match="another pipeline is running"),
        flows.pipeline.only_one(tmp_path),
    ):
        pass
    with flows.pipeline.only_one(tmp_path):  # and it is free again
        pass


def test_a_failure_is_posted_without_the_address_in_any_log(web, monkeypatch, capsys):
    from types import SimpleNamespace

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


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_worker_runs_a_deployment_and_one_that_takes_over_from_a_killed_one(tmp_path, repository):
    """The worker is killed with the flow in the middle of a stage; another worker finishes a second run."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("flows", "sohes", "infra", "prefect.yaml", "params.yaml"):
        (tmp_path / name).symlink_to(repository / name)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "in.txt").write_text("x")
    wait = "if [ ! -e started ]; then touch started; sleep 300; fi; cp in.txt out.txt"
    (tmp_path / "dvc.yaml").write_text(
        yaml.safe_dump({"stages": {"explore": {"cmd": wait, "deps": ["in.txt"], "outs": ["out.txt"]}}})
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PATH": path, "PYTHONPATH": str(tmp_path)}
    environment |= {"PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "1"}

    def prefect(*arguments: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments], cwd=tmp_path, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def start_worker() -> subprocess.Popen:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "sohes", "--type", "process"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)

    def until(condition, what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.3)

    prefect("work-pool", "create", "sohes", "--type", "process")
    prefect("deploy", "--name", "explore")
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("sohes-stage/explore")
        assert deployment.global_concurrency_limit.limit == 1
        worker = start_worker()
        try:
            client.create_flow_run_from_deployment(deployment.id)
            until((tmp_path / "started").exists, "the stage does not start")
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        for pid in processes_with(f"PREFECT_HOME={tmp_path}"):
            os.kill(pid, signal.SIGKILL)
        assert not (tmp_path / "out.txt").exists()
        # The dead run holds the deployment's only slot until its lease ends: minutes that the test does not wait.
        from prefect.states import Crashed

        for dead in client.read_flow_runs():
            if dead.deployment_id == deployment.id and not dead.state.is_final():
                client.set_flow_run_state(dead.id, Crashed(message="its worker was killed"), force=True)
        worker = start_worker()
        try:
            run = client.create_flow_run_from_deployment(deployment.id)
            until((tmp_path / "out.txt").exists, "the second run does not finish")
            until(lambda: client.read_flow_run(run.id).state.is_final(), "the second run does not end")
            assert client.read_flow_run(run.id).state.is_completed()
        finally:
            worker.send_signal(signal.SIGINT)
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
    assert (tmp_path / "out.txt").read_text() == "x"


def processes_with(variable: str) -> list[int]:
    """Living processes that were started with an environment variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_bytes().decode(errors="replace").split("\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found
