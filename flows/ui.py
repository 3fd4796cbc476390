"""`python -m flows.ui`: MLflow's and Prefect's pages on this machine, until Ctrl-C or until the terminal is closed."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flows.command import exit_code
from sohes.errors import SohesError
from sohes.launch.group import end_group
from sohes.launch.task import last_lines, log_file
from sohes.project import Project
from sohes.tracking import experiment_page, tracking_uri
from sohes.tracking.place import correct_paths

HOST = "127.0.0.1"  # nothing here asks for a password
MLFLOW_PORT, PREFECT_PORT = 5000, 4200
MLFLOW_URL = f"http://{HOST}:{MLFLOW_PORT}"
GRACE_SECONDS = 15
LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Server:
    """A server to start: `python COMMAND` on a port of this machine, its output in a log.

    page: asked for once the server answers; the page to begin with, relative to the address.
    """

    name: str
    port: int
    command: Sequence[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    page: Callable[[], str] = str

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"


def servers(root: Path, mlflow_port: int, prefect_port: int) -> list[Server]:
    """MLflow's and Prefect's, as `make ui` starts them."""
    mlflow = ["-m", "mlflow", "server", "--backend-store-uri", tracking_uri(root), "--workers", "1"]
    mlflow += ["--default-artifact-root", Project(root).lasting.artifacts.resolve().as_uri()]
    mlflow += ["--host", HOST, "--port", str(mlflow_port)]
    prefect = ["-m", "prefect", "--no-prompt", "server", "start", "--host", HOST, "--port", str(prefect_port)]
    return [
        Server(
            "MLflow", mlflow_port, mlflow, log_file(root, "mlflow"),
            # Its job runner is four more processes of 250 MB for features that nobody uses here.
            {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            partial(experiment_page, root),
        ),
        Server(
            "Prefect", prefect_port, prefect, log_file(root, "prefect"),
            # By default its pages ask the server that PREFECT_API_URL names, or the one on the usual port.
            {"PREFECT_UI_API_URL": f"http://{HOST}:{prefect_port}/api"},
        ),
    ]  # fmt: skip


def serve(wanted: Sequence[Server]) -> None:
    """Run the servers until Ctrl-C and say when each answers; all are ended when the function is left.

    SohesError if a port is taken, or if a server ends by itself.
    """
    for server in wanted:
        if _answers(server):
            remedy = f"end what uses it, or choose another with --{server.name.lower()}-port"
            raise SohesError(f"port {server.port} for {server.name} is taken: {remedy}")
    print(f"Starting (logs: {wanted[0].log.parent})", flush=True)
    silent = list(wanted)
    try:
        with ExitStack() as stack:
            running = {server.name: stack.enter_context(started(server)) for server in wanted}
            while True:
                for server in wanted:
                    if running[server.name].poll() is not None:
                        raise SohesError(_last_words(server))
                for server in filter(_answers, list(silent)):
                    print(f"{server.name:8} {server.address}/{server.page()}", flush=True)
                    silent.remove(server)
                    if not silent:
                        print("Ctrl-C ends both.", flush=True)
                time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        return


@contextmanager
def started(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, which is ended with all of its workers when the block is left."""
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("wb") as log:
        # A session of its own: Ctrl-C in the terminal must reach only us, who then end both in order.
        process = subprocess.Popen(
            [sys.executable, *server.command], env={**os.environ, **server.environment}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        end_group(process, GRACE_SECONDS)


def _answers(server: Server) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((HOST, server.port)) == 0


def _last_words(server: Server) -> str:
    said = [line.strip() for line in last_lines(server.log.read_text(errors="replace")) if line.strip()]
    return f"{server.name} has ended: {(said or ['it said nothing'])[-1]} (log: {server.log})"


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C; 0 after it, otherwise as every `sohes` command ends."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description="MLflow's and Prefect's pages.")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    def work() -> None:
        correct_paths(Project(root).lasting)
        serve(servers(root, options.mlflow_port, options.prefect_port))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
