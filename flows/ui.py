"""`python -m flows.ui`: the MLflow UI and the Prefect UI on this machine, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sohes.project import Project
from sohes.tracking import tracking_uri
from sohes.tracking.place import correct_paths

HOST = "127.0.0.1"  # nothing here asks for a password
MLFLOW_PORT, PREFECT_PORT = 5000, 4200
MLFLOW_URL = f"http://{HOST}:{MLFLOW_PORT}"
GRACE_SECONDS = 15


def commands(root: Path, mlflow_port: int, prefect_port: int) -> dict[str, list[str]]:
    """The two servers by their address."""
    mlflow = ["-m", "mlflow", "server", "--backend-store-uri", tracking_uri(root), "--workers", "1"]
    mlflow += ["--default-artifact-root", Project(root).lasting.artifacts.resolve().as_uri()]
    prefect = ["-m", "prefect", "server", "start"]
    return {
        f"MLflow   http://{HOST}:{mlflow_port}": [*mlflow, "--host", HOST, "--port", str(mlflow_port)],
        f"Prefect  http://{HOST}:{prefect_port}": [*prefect, "--host", HOST, "--port", str(prefect_port)],
    }


def serve(servers: Mapping[str, Sequence[str]]) -> int:
    """Run the servers until Ctrl-C or SIGTERM (0), or until one of them ends by itself (1); then end the others."""
    # Its job runner is four more processes of 250 MB for features that nobody uses here.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    running: dict[str, subprocess.Popen[bytes]] = {}
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for address, command in servers.items():
            # A session of its own: Ctrl-C in the terminal must reach only us, who then end both in order.
            running[address] = subprocess.Popen([sys.executable, *command], env=environment, start_new_session=True)
            print(address, flush=True)
        print("Ctrl-C ends both.", flush=True)
        while all(process.poll() is None for process in running.values()):
            time.sleep(0.5)
        ended = next(address for address, process in running.items() if process.poll() is not None)
        print(f"sohes: {' '.join(ended.split())} has ended: is its port taken?", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for process in running.values():
            _end(process)
        signal.signal(signal.SIGTERM, previous)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and the workers it started: they share its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description="MLflow's and Prefect's pages.")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    correct_paths(Project(root).lasting)
    return serve(commands(root, options.mlflow_port, options.prefect_port))


if __name__ == "__main__":
    sys.exit(main())
