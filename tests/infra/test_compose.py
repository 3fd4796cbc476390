"""infra/docker/compose.yaml: what its services need from each other is there before they start."""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from processes import free_port

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def services(repository) -> dict:
    return yaml.safe_load((repository / "infra/docker/compose.yaml").read_text())["services"]


def make_bucket(services: dict, url: str) -> subprocess.CompletedProcess[str]:
    """What the service does, with its own environment, on a store at `url`."""
    python, *words = services["bucket"]["command"]
    assert python == "python"
    own = services["bucket"]["environment"]
    keys = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    assert set(keys) < set(own)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return subprocess.run(
        [sys.executable, *words], env=outside | nothing | own | keys, capture_output=True, text=True, check=False
    )


def test_the_bucket_of_mlflow_is_made_once(services, s3):
    assert [make_bucket(services, s3.url).returncode for _ in range(2)] == [0, 0]
    assert "mlflow" in [bucket["Name"] for bucket in s3.client.list_buckets()["Buckets"]]
    assert "--artifacts-destination=s3://mlflow" in services["mlflow"]["command"]
    assert services["mlflow"]["depends_on"]["bucket"] == {"condition": "service_completed_successfully"}


def test_a_store_that_starts_later_is_waited_for(services):
    class Store(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<ListAllMyBucketsResult><Buckets><Bucket><Name>mlflow</Name></Bucket></Buckets>"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body + b"</ListAllMyBucketsResult>")

        def log_message(self, *_: object) -> None:
            pass

    port = free_port()

    def start_late() -> None:
        time.sleep(2)
        with HTTPServer(("127.0.0.1", port), Store) as store:
            store.timeout = 60
            store.handle_request()

    thread = threading.Thread(target=start_late)
    thread.start()
    done = make_bucket(services, f"http://127.0.0.1:{port}")
    thread.join()
    assert done.returncode == 0, done.stderr
