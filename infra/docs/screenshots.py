"""The screenshots of README.md and docs/: python -m infra.docs.screenshots PROJECT, with Chromium on this machine.

PROJECT is a folder in which `make demo` and then `sohes ablate table-2` have run.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from PIL import Image

from infra.docs.pictures import FOLDER, photographs
from sohes.bench.viewer import chromium, serving
from sohes.errors import SohesError
from sohes.explore.label_image import label_image, make_extractor
from sohes.files import atomic_path
from sohes.params import load_params
from sohes.result import Result
from sohes.viewer.gallery import ResultGallery

TABLE = "ablation table-2"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.docs.screenshots", description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    with chromium() as browser:
        _write(options.out / "viewer.webp", viewer(browser, options.project))
        with mlflow_ui(options.project) as address:
            for name, png in mlflow_pages(browser, address, options.project).items():
                _write(options.out / name, png)


def viewer(browser: Any, project: Path) -> bytes:
    """The viewer with a part of the photographed woman taken, as PNG."""
    params = load_params(project / "params.yaml")
    image = photographs()["woman"]
    found = label_image(image, make_extractor(params.explore, project / "models/backbone.safetensors"), params.explore)
    with TemporaryDirectory() as folder:
        file = Result(image, found).save(folder, "astronaut")
        with serving(ResultGallery([file]), title="astronaut") as address:
            page = browser.new_page(viewport={"width": 900, "height": 760})
            page.goto(address)
            page.wait_for_selector("body[data-ready=yes] .panel")
            box = page.locator(".light").bounding_box()
            assert box is not None
            page.mouse.click(box["x"] + 0.36 * box["width"], box["y"] + 0.3 * box["height"])  # the face
            page.wait_for_selector('#tree [aria-selected="true"]')
            return page.screenshot()


@contextmanager
def mlflow_ui(project: Path) -> Iterator[str]:
    """MLflow's UI on the project's database, on 127.0.0.1, while the block runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{(project / 'mlflow.db').resolve()}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], env=environment, **quiet)  # type: ignore[call-overload]
    try:
        _wait(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.wait()


def mlflow_pages(browser: Any, address: str, project: Path) -> dict[str, bytes]:
    raise NotImplementedError


def _wait(address: str, server: subprocess.Popen) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise SohesError(f"MLflow ended with exit code {server.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise SohesError(f"MLflow did not answer at {address} within two minutes")


def _write(path: Path, png: bytes) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=85, method=6)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
    print(f"wrote {path} ({len(buffer.getvalue()) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
