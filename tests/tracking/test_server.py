"""A real MLflow server on a real PostgreSQL, both on loopback, with artifacts through the server."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import free_port

from sohes import tracking
from sohes.params import Params, load_params

pytest.importorskip("mlflow")

# MLflow's own modules use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def find_postgres() -> Path | None:
    """The folder of initdb and postgres: on PATH, or where Debian hides its newest."""
    found = shutil.which("initdb")
    hidden = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return Path(found or max(hidden)).parent if found or hidden else None


@contextlib.contextmanager
def running(command: list[str], folder: Path, **options) -> Iterator[subprocess.Popen]:
    """A server in a session of its own, with its output in the folder; ended with all its workers."""
    with (folder / f"{Path(command[0]).name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **options)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)


def wait_for(port: int, process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        logs = "".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
        assert process.poll() is None, logs
        assert time.monotonic() < deadline, logs
        time.sleep(0.2)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database that asks for a password."""
    programs = find_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL to test with: initdb and postgres are needed")
    who: dict = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("no PostgreSQL to test with: root needs the user postgres")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="sohes-sql-"))
    try:
        (folder / "password").write_text("hush-hush")
        if who:
            for path in (folder, folder / "password"):
                os.chown(path, who["user"], who["group"])
        subprocess.run(
            [programs / "initdb", "--no-sync", "--username=sohes", "--auth=scram-sha-256", "--encoding=UTF8",
             f"--pwfile={folder}/password", f"--pgdata={folder}/data"],
            check=True, capture_output=True, cwd=folder, **who,
        )  # fmt: skip
        port = free_port()
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        command += ["-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off", "-c", "shared_buffers=16MB"]
        with running(command, folder, cwd=folder, **who) as process:
            wait_for(port, process, folder)
            yield f"postgresql+psycopg2://sohes:hush-hush@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # As in infra/docker/compose.yaml.
    settings = {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(command, folder, env={**os.environ, **settings, "MLFLOW_DISABLE_TELEMETRY": "true"}) as process:
        wait_for(port, process, folder)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def params(repository: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.setenv("SOHES_TRACKING", "on")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return load_params(repository / "params.yaml")


def test_stages_record_figures_and_files_and_a_killed_one_goes_on_in_its_run(params, server, database, tmp_path):
    (tmp_path / "table.json").write_text('{"AR": 33.6}')
    with contextlib.suppress(KeyboardInterrupt), tracking.stage_run("instruct", params, tmp_path) as first:
        first.metrics({"loss": 2.0}, step=1)
        raise KeyboardInterrupt
    # From another folder, as from another machine: only the server knows of the first attempt.
    with tracking.stage_run("instruct", params, tmp_path / "elsewhere", resume_id=first.run_id) as second:
        second.metrics({"loss": 1.0}, step=2)
        second.artifact(tmp_path / "table.json")
    client = tracking.tracking_client(tmp_path)
    run = client.get_run(first.run_id)
    assert second.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert run.data.params["instruct.batch_size"] == str(params.instruct.batch_size)
    assert [(m.step, m.value) for m in client.get_metric_history(first.run_id, "loss")] == [(1, 2.0), (2, 1.0)]
    # The file went to the server, which gives it back.
    assert not (tmp_path / "mlartifacts").exists()
    (path,) = client.list_artifacts(first.run_id)
    brought = client.download_artifacts(first.run_id, path.path, str(tmp_path / "elsewhere"))
    assert Path(brought).read_text() == '{"AR": 33.6}'
    url = tracking.pipeline_url(params, tmp_path, local_ui="nowhere")
    assert url is not None
    assert url.startswith(server)
    assert run.data.tags["mlflow.parentRunId"] in url

    import sqlalchemy

    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:  # that it is PostgreSQL where the run lies
        rows = connection.execute(sqlalchemy.text("select status from runs where run_uuid = :id"), {"id": first.run_id})
        assert rows.scalar_one() == "FINISHED"
    engine.dispose()
    everything = str(
        [client.get_run(r.info.run_id).to_dictionary() for r in client.search_runs([run.info.experiment_id])]
    )
    assert "hush-hush" not in everything
