"""What the tests share: quiet surroundings, real photographs where they are, one Prefect server for all."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from processes import free_port, serving

# Before torch and numba are imported: tests are tiny, and threads of theirs only fight over the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.update(SOHES_TRACKING="off", DO_NOT_TRACK="1", HF_HUB_OFFLINE="1")
for _name in ("AUTHOR", "COMMITTER"):  # tests commit, also where git knows nobody
    os.environ |= {f"GIT_{_name}_NAME": "a", f"GIT_{_name}_EMAIL": "a@example.org"}
for _name in (
    "MLFLOW_TRACKING_URI",
    "PREFECT_API_URL",
    "SOHES_PIPELINE_RUN",
    "SOHES_LAUNCH",
    "SOHES_DEBUG",
    "SOHES_WORKERS",
):
    os.environ.pop(_name, None)

# A shell that starts the tests in the background has Ctrl-C ignored, nohup a closed terminal; processes inherit it.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def compiled_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that compare what is said on stderr hold with an empty cache, too."""
    monkeypatch.setattr("sohes.work.pool._told", True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs beside the checkout; tests that need it are skipped where there is none."""
    folder = REPOSITORY.parent / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}")
    return folder


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One temporary Prefect server for all tests that run flows: starting it takes longer than they do."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC project of its own with this checkout's dvc.yaml, code and tiny params; no commit is made."""
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(REPOSITORY / name, tmp_path)
    # With __pycache__: numba's compiled functions lie there, and compiling them again takes half a minute.
    for name in ("sohes", "infra"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copytree(REPOSITORY / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


@pytest.fixture
def tiny_params() -> dict:
    """The checkout's params.yaml as a dictionary, cut down to seconds: small images, few of them, three steps."""
    values = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    values["pull"] |= {"scenes": {"size": 64, "train": 8, "eval": 4}, "images_per_shard": 4}
    values["backbone"] |= {"embed_dim": 32, "depth": 2, "num_heads": 2, "image_size": 64}
    values["backbone"]["dino"] |= {"steps": 3, "batch_size": 4, "image_size": 32, "warmup_steps": 1, "prototypes": 16}
    values["backbone"]["distill"] |= {"steps": 3, "batch_size": 4, "image_size": 32, "warmup_steps": 1}
    values["explore"] |= {"image_size": 64, "crop_size": 32, "min_crop": 32, "images_per_shard": 4}
    values["model"] |= {"image_size": 64, "hidden_dim": 32, "num_queries": 21, "feedforward_dim": 32, "num_heads": 2}
    values["model"]["adapter"] |= {"interactions": 1, "stem_dim": 8, "num_heads": 2}
    for phase in ("instruct", "correct"):
        values[phase] |= {"steps": 3, "batch_size": 2, "checkpoint_every": 2}
        values[phase]["optim"]["warmup_steps"] = 1
    values["evaluate"]["images_per_shard"] = 4
    values["report"]["pictures"] = 2
    return values


@pytest.fixture
def labelling(project: Path) -> Path:
    """The project with the stages `pull` and `explore` alone, and a table for the flow to show at its end."""
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    stages["explore"]["deps"] = [dep for dep in stages["explore"]["deps"] if not dep.startswith("models/")]
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {name: stages[name] for name in ("pull", "explore")}}))
    (project / "metrics").mkdir()
    (project / "metrics/evaluate.json").write_text("{}")
    return project


@pytest.fixture
def tiny_model(tiny_params: dict, tmp_path: Path) -> Path:
    """A network of the tiny profile with a card, untrained but able to find masks: `models/correct.safetensors`."""
    import torch

    from sohes.backbone.vit import Backbone
    from sohes.model.checkpoint import save_checkpoint
    from sohes.model.network import Segmenter
    from sohes.params import Params

    params = Params.model_validate(tiny_params)
    shape = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    torch.manual_seed(0)
    network = Segmenter(Backbone(params.backbone.architecture, shape), params.model)
    path = tmp_path / "models/correct.safetensors"
    save_checkpoint(path, network, {"phase": "correct"})
    return path


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Runs a Python script as two processes over gloo, as torchrun starts them; what each said on stderr."""

    def run(script: str, *arguments: object, timeout: float = 240) -> list[str]:
        path = tmp_path_factory.mktemp("torchrun") / "script.py"
        path.write_text(script)
        port = free_port()
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error::RuntimeWarning", str(path), *map(str, arguments)],
                env={**os.environ, **group, "CUDA_VISIBLE_DEVICES": "", "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            said = [process.communicate(timeout=timeout)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], said
        return said

    return run


# ---------------------------------------------------------------- servers with faults


class Faults:
    """What a server does wrong next: a list of words, one a request; afterwards it behaves. `paths`: all requests."""

    def __init__(self) -> None:
        self.next: list[str] = []
        self.paths: list[str] = []
        self.released = threading.Event()  # set at the end: a stalled answer must not keep the server from stopping


@pytest.fixture
def web(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """An HTTP server of `web.folder` on loopback, with ranges and entity tags; `web.faults.next` says what fails.

    Faults: a status such as `503`, `cut` (half of the body), `stall` (silence in the middle), `whole` (ignores Range).
    """
    folder = tmp_path / "served"
    folder.mkdir()
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            faults.paths.append(self.path)
            fault = faults.next.pop(0) if faults.next else ""
            file = folder / self.path.partition("?")[0].lstrip("/")
            if fault.isdecimal() or not file.is_file():
                self.send_response(int(fault or 404))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = file.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            start = 0
            if "Range" in self.headers and fault != "whole" and self.headers.get("If-Range", etag) == etag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", etag)
            self.end_headers()
            body = data[start:]
            if fault in ("cut", "stall"):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                if fault == "stall":
                    faults.released.wait(20)
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield SimpleNamespace(folder=folder, url=url, faults=faults)
        faults.released.set()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """An S3 service on loopback with an empty bucket `photos`; `s3.faults.next` as above, but for GET of objects only.

    `s3.client` puts objects; credentials and the endpoint are in the environment, as on a real machine.
    """
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    faults = Faults()
    service = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict, start_response: Callable) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "GET" or path.count("/") < 2 or path.endswith("/"):
            return service(environ, start_response)
        faults.paths.append(f"{path} {environ.get('HTTP_RANGE', '')}".strip())
        fault = faults.next.pop(0) if faults.next else ""
        if fault.isdecimal():
            start_response(f"{fault} Trouble", [("Content-Length", "0")])
            return [b""]
        answer = service(environ, start_response)
        return _spoiled(answer, fault, faults) if fault else answer

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    nothing = tmp_path_factory.mktemp("aws") / "config"
    nothing.touch()  # DVC wants a file there
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(nothing),
        "AWS_SHARED_CREDENTIALS_FILE": str(nothing),
        "AWS_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    from sohes.data.sources.s3 import _client

    _client.cache_clear()
    client = boto3.Session().client("s3")
    client.create_bucket(Bucket="photos")
    yield SimpleNamespace(url=url, client=client, faults=faults)
    client.close()
    faults.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
    s3_backends[DEFAULT_ACCOUNT_ID].reset()


def _spoiled(answer: Iterable[bytes], fault: str, faults: Faults) -> Iterator[bytes]:
    body = b"".join(answer)
    if fault == "flip":
        yield bytes([body[0] ^ 1]) + body[1:]
        return
    yield body[: len(body) // 2]
    if fault == "stall":
        faults.released.wait(20)
    raise ConnectionAbortedError("as the test wants it")  # the rest that was announced never comes


@pytest.fixture
def in_terminal() -> Iterator[Callable[..., tuple[subprocess.Popen, Callable[[], None]]]]:
    """Starts a Python command in a terminal of its own; returns the process, and a function that closes the terminal.

    The kernel then sends SIGHUP, and whoever still writes to the terminal gets an error.
    """
    import pty

    own = "\n".join(
        (
            "import fcntl, os, sys, termios",
            "fcntl.ioctl(0, termios.TIOCSCTTY, 0)",
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
        )
    )
    open_ends: list[int] = []
    started: list[subprocess.Popen] = []

    def start(*arguments: str, **options: object) -> tuple[subprocess.Popen, Callable[[], None]]:
        ours, theirs = pty.openpty()
        open_ends.append(ours)
        command = [sys.executable, "-c", own, *arguments]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, **options
        )
        os.close(theirs)
        started.append(process)
        return process, lambda: os.close(open_ends.pop(open_ends.index(ours)))

    yield start
    for end in open_ends:
        os.close(end)
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def kill_when() -> Callable[[Path, str, list[str], dict[str, str]], None]:
    """Starts a command in a folder and kills it with -9 as soon as a file there fits the pattern."""

    def run(folder: Path, pattern: str, command: list[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(command, cwd=folder, env=environment)
        while not list(folder.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()

    return run
