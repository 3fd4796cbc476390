import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def start(tmp_path: Path, repository: Path):
    """Starts `python -m flows.ui` and ends it at last, whatever the test has found."""
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(repository)}

    def start_ui(mlflow_port: int, prefect_port: int) -> subprocess.Popen[str]:
        ports = ["--mlflow-port", str(mlflow_port), "--prefect-port", str(prefect_port)]
        command = [sys.executable, "-m", "flows.ui", *ports]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start_ui
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
def test_both_pages_answer_and_both_servers_end_with_the_command(start):
    ports = free_port(), free_port()
    process = start(*ports)
    addresses = [f"http://127.0.0.1:{ports[0]}/health", f"http://127.0.0.1:{ports[1]}/api/health"]
    deadline = time.monotonic() + 240
    while not all(answers(address) for address in addresses):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the servers did not come up"
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not any(answers(address) for address in addresses)


@pytest.mark.slow
def test_a_taken_port_ends_both_with_one_sentence(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(free_port(), taken.getsockname()[1])
        _, told = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "sohes: Prefect" in told.splitlines()[-1]
    assert "is its port taken?" in told.splitlines()[-1]
