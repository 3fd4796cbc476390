import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
from processes import answers, free_port, processes_with, serving, until

import flows
from sohes import tracking
from sohes.bench.viewer import chromium
from sohes.errors import SohesError
from sohes.params import load_params


@pytest.fixture
def outside() -> Iterator[SimpleNamespace]:
    """A proxy that lets nothing pass: its `url`, and the addresses that were `asked` for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            asked.append(self.path)
            self.send_error(403)

        do_CONNECT = do_GET = do_POST = refuse

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield SimpleNamespace(url=url, asked=asked)


@pytest.fixture
def environment(tmp_path: Path, repository: Path, outside: SimpleNamespace) -> dict[str, str]:
    """A user's, who has asked nobody to be quiet; all that leaves the machine goes by the proxy."""
    quiet = {*flows.QUIET, "CI", "PYTEST_CURRENT_TEST", "NO_PROXY", "no_proxy"}
    plain = {name: value for name, value in os.environ.items() if name not in quiet}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), outside.url)
    return {**plain, **proxies, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(repository)}


def command(mlflow_port: int, prefect_port: int) -> list[str]:
    return ["-m", "flows.ui", "--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port)]


def addresses(mlflow_port: int, prefect_port: int) -> list[str]:
    return [f"http://127.0.0.1:{mlflow_port}", f"http://127.0.0.1:{prefect_port}"]


def both_answer(mlflow: str, prefect: str) -> bool:
    return answers(f"{mlflow}/health") and answers(f"{prefect}/api/health")


@pytest.mark.slow
def test_the_pages_work_and_neither_they_nor_the_servers_ask_anybody_outside(
    tmp_path, repository, environment, outside, monkeypatch
):
    monkeypatch.setenv("SOHES_TRACKING", "on")
    with tracking.stage_run("pull", load_params(repository / "params.yaml"), tmp_path) as recorder:
        recorder.metrics({"images": 8}, step=1)
    ports = free_port(), free_port()
    mlflow, prefect = addresses(*ports)
    process = subprocess.Popen(
        [sys.executable, *command(*ports)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: both_answer(mlflow, prefect), "no servers", process)
        until(lambda: (tmp_path / ".sohes/logs/prefect.log").stat().st_size > 0, "no log", process)
        opened = [f"{mlflow}/{page}" for page in ("", "#/experiments/1", "#/experiments/1/runs", "#/models")]
        opened += [f"{prefect}/{page}" for page in ("", "runs", "flows", "deployments", "work-pools", "settings")]
        try:
            with chromium() as browser:
                asked, failed = look(browser, opened)
        except SohesError as error:
            pytest.skip(str(error))
    finally:
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    elsewhere = [url for url in asked if not url.startswith((f"{mlflow}/", f"{prefect}/", "data:", "blob:"))]
    assert not elsewhere
    assert not failed
    assert any(url.startswith(f"{prefect}/api/flow_runs") for url in asked)
    assert not outside.asked
    assert complaints == ""
    first, *others = said.splitlines()
    assert first == f"Starting (logs: {tmp_path}/.sohes/logs)"
    runs = "#/experiments/1?workflowType=machine_learning"
    assert sorted(others) == ["Ctrl-C ends both.", f"MLflow   {mlflow}/{runs}", f"Prefect  {prefect}/"]
    assert not any(answers(address) for address in (mlflow, prefect))


def look(browser, opened: list[str]) -> tuple[list[str], list[str]]:
    """Opens pages, one after the other; all addresses that they have asked for, and those that did not answer."""
    asked: list[str] = []
    failed: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda one: asked.append(re.sub("^ws", "http", one.url)))
    # A page that is left lets go of what it still waits for.
    page.on("requestfailed", lambda one: failed.append(one.url) if "ABORTED" not in (one.failure or "") else None)
    for address in opened:
        page.goto(address)
        page.wait_for_timeout(1500)
        page.wait_for_load_state("load")
    return asked, failed


@pytest.mark.slow
def test_closing_the_terminal_ends_both_servers(tmp_path, environment, in_terminal):
    ports = free_port(), free_port()
    process, close = in_terminal(*command(*ports), cwd=tmp_path, env=environment)
    until(lambda: both_answer(*addresses(*ports)), "no servers", process)
    close()
    process.wait(60)
    assert not any(answers(address) for address in addresses(*ports))
    assert not processes_with(f"PREFECT_HOME={environment['PREFECT_HOME']}")


def test_a_taken_port_is_one_sentence(tmp_path, environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, *command(free_port(), port)], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    expected = f"sohes: port {port} for Prefect is taken: end what uses it, or choose another with --prefect-port\n"
    assert done.stderr == expected


def test_a_server_that_ends_by_itself_ends_the_other_and_names_its_log(tmp_path):
    from flows.ui import Server, serve

    other = f"import time, pathlib; time.sleep(60); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    servers = [
        Server("MLflow", free_port(), ["-c", other], tmp_path / "logs/mlflow.log"),
        Server("Prefect", free_port(), ["-c", "print('no disk'); print()"], tmp_path / "logs/prefect.log"),
    ]
    began = time.monotonic()
    with pytest.raises(SohesError, match=r"Prefect has ended: no disk \(log: .*/logs/prefect.log\)"):
        serve(servers)
    assert time.monotonic() - began < 30


def test_the_image_is_as_quiet(repository):
    text = (repository / "infra/docker/Dockerfile").read_text()
    said = dict(re.findall(r"(?<=[ ])([A-Z0-9_]+)=(\S+)", text))
    assert {name: said.get(name) for name in flows.QUIET} == flows.QUIET
