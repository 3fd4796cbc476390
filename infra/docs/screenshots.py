"""Take the screenshots of README.md and docs/: python -m infra.docs.screenshots PROJECT. Needs Chromium.

PROJECT is a folder in which `make demo` and then `sohes ablate table-2` have run.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.ui import servers, started
from infra.docs.pictures import FOLDER, photographs
from sohes.bench.viewer import chromium, serving
from sohes.data.imaging import encode_webp
from sohes.data.store.decode import decode_image
from sohes.errors import SohesError
from sohes.evaluate.result import Result
from sohes.explore.label_image import label_image
from sohes.explore.maps import make_extractor
from sohes.params import load_params
from sohes.project import Project
from sohes.tracking import tracking_client
from sohes.viewer.gallery import ResultGallery
from sohes.work.files import atomic_path

TABLE = "ablation table-2"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.docs.screenshots", description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    with chromium() as browser:
        write_webp(options.out / "viewer.webp", viewer(browser, options.project))
        with mlflow_ui(options.project) as address:
            for name, png in mlflow_pages(browser, address, options.project).items():
                write_webp(options.out / name, png)


def viewer(browser: Any, project: Path) -> bytes:
    """The viewer with a part of the woman in the photograph selected, as PNG."""
    params = load_params(Project(project).params)
    image = photographs()["woman"]
    extract = make_extractor(params.explore, Project(project).model("backbone"))
    found = label_image(image, extract, params.explore)
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
    """Serve MLflow's UI for the project's database on 127.0.0.1 while the block runs; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server, _ = servers(project, port, 0)
    with started(server) as process:
        _wait(f"{server.address}/health", process)
        yield server.address


def mlflow_pages(browser: Any, address: str, project: Path) -> dict[str, bytes]:
    """The rows of the ablation sorted by AR, and their parallel coordinates, as PNGs."""
    client = tracking_client(project)
    experiment = client.get_experiment_by_name(TABLE)
    if experiment is None:
        raise SohesError(f"no experiment {TABLE!r} in {project}: run `sohes ablate table-2` there")
    page = browser.new_page(viewport={"width": 1400, "height": 600})
    page.set_default_timeout(90_000)
    page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.goto(f"{address}/#/experiments/{experiment.experiment_id}/runs?orderByKey=metrics.%60AR%60&orderByAsc=false")
    page.get_by_label("Toggle sidebar").click()
    page.get_by_role("button", name="Columns", exact=True).click()
    columns = page.get_by_test_id("column-selector-tree")
    for group in ("Dataset", "Source", "Models", "Metrics"):
        row = columns.locator("[class*=tree-treenode]").filter(has_text=group).first
        row.locator("[class*=tree-checkbox]").first.click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(2000)
    table = page.screenshot()

    runs = [run.info.run_id for run in client.search_runs([experiment.experiment_id])]
    chosen = {"runs": json.dumps(runs), "experiments": json.dumps([experiment.experiment_id])}
    page.goto(f"{address}/#/compare-runs?{urllib.parse.urlencode(chosen)}")
    metrics = page.get_by_role("combobox").nth(1)
    metrics.click()
    page.keyboard.type("AR")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.locator("[class*=selection-item]").filter(has_text="AP").locator("[class*=remove]").first.click()
    page.keyboard.press("Escape")
    page.mouse.move(5, 5)
    page.wait_for_timeout(2000)
    coordinates = page.screenshot()
    page.close()
    return {"mlflow-table.webp": table, "mlflow-coordinates.webp": coordinates}


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


def write_webp(path: Path, png: bytes) -> None:
    """A screenshot as a WebP of a tenth of its size."""
    data = encode_webp(decode_image(png, max_megapixels=100, apply_exif=False), quality=85, method=6)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    print(f"wrote {path} ({len(data) / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
