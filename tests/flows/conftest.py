"""A real Prefect server for the tests that cannot do with the temporary one."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import answers, end_group, free_port, until


@pytest.fixture
def read_artifact(prefect_server: None) -> Callable[[str], str]:
    """The data of the newest artifact with a key. Prefect's own `Artifact.get` leaves its connection open."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    def read(key: str) -> str:
        with get_client(sync_client=True) as client:
            found = client.read_latest_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
        (newest,) = found
        return str(newest.data)

    return read


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real server with all its services, on loopback; the environment of whoever talks to it."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PREFECT_HOME": str(home), "PATH": path, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}/api"
    try:
        until(lambda: answers(f"{url}/health"), f"no server: {home / 'server.log'}", process)
        with temporary_settings({PREFECT_API_URL: url}):
            yield environment | {"PREFECT_API_URL": url}
    finally:
        end_group(process)
