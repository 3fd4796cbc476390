"""A new user's first five minutes in a browser: python -m infra.docs.five_minutes PROJECT PHOTOGRAPH. Needs Chromium.

PROJECT is a clone in which `make demo` has run; the walk works in a copy of it. It segments the photograph, opens
`sohes view`, the report, and what `make ui` starts, runs the pipeline under Prefect, and compares two pipelines in
MLflow; if there is only one, it runs another with fewer masks an image, which takes minutes. The browser's profile and
Prefect's records are new. Every page is saved as a PNG; with --tour the pictures of docs/tour.md are written, too.

Fails if a page logs an error, asks for anything outside of this machine, or shows an empty chart.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.docs.pictures import FOLDER
from infra.docs.screenshots import write_webp
from sohes.bench.viewer import chromium
from sohes.project import Project
from sohes.tracking import EXPERIMENT, tracking_client

TOUR = {  # pages that docs/tour.md shows, by the picture's name
    "mlflow-runs": "tour-runs.webp",
    "mlflow-pipeline": "tour-pipeline.webp",
    "mlflow-compare": "tour-compare.webp",
    "prefect-run": "tour-flow.webp",
    "prefect-artifacts": "tour-artifacts.webp",
}
HERE = ("http://127.0.0.1:", "ws://127.0.0.1:", "file:", "data:", "blob:")
# Faults of MLflow's and Prefect's own pages: what they ask their servers for in vain, and a harmless warning.
THEIRS = ("/mlflow/users/current", "/favicon.ico", "/ico/undefined.svg", "ResizeObserver loop")
SIZES, SCHEMES = {"wide": (1280, 900), "phone": (390, 844)}, ("light", "dark")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.docs.five_minutes", description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/five-minutes"), help="the folder of the PNGs")
    parser.add_argument("--tour", action="store_true", help="also write docs/pictures/tour-*.webp")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, chromium() as browser:
        project = Path(folder, "sohes")
        shutil.copytree(options.project, project, symlinks=True, ignore=shutil.ignore_patterns(".venv", ".sohes"))
        walk = Walk(browser, project, options.out, {**os.environ, "PREFECT_HOME": str(Path(folder, "prefect"))})
        walk.segment(options.photograph.resolve())
        walk.report()
        walk.servers()
    if walk.faults:
        raise SystemExit("\n".join(dict.fromkeys(walk.faults)))
    if options.tour:
        for name, picture in TOUR.items():
            write_webp(FOLDER / picture, (options.out / f"{name}.png").read_bytes())


@dataclass
class Walk:
    """The browser, the copied project, the folder of the screenshots, the environment of what is started, and all
    that went wrong."""

    browser: Any
    root: Path
    out: Path
    environment: dict[str, str]
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # MLflow would take a minute to start

    # ---------------------------------------------------------------- sohes view, the report

    def segment(self, photograph: Path) -> None:
        self.run("-m", "sohes", "segment", str(photograph))
        with self.started("-m", "sohes", "view", "segmented", "--no-browser") as lines:
            address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
            for name, page in self.pages("view"):
                page.goto(address)
                page.wait_for_selector("body[data-ready=yes] .panel")
                box = page.locator(".light").bounding_box()
                page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
                self.shoot(page, name)

    def report(self) -> None:
        for name, page in self.pages("report"):
            page.goto(Project(self.root).report.as_uri())
            self.shoot(page, name)

    def pages(self, name: str) -> Iterator[tuple[str, Any]]:
        """A page for a computer and for a phone, light and dark."""
        for size, (width, height) in SIZES.items():
            for scheme in SCHEMES:
                yield f"{name}-{size}-{scheme}", self.page(width, height, color_scheme=scheme)

    # ---------------------------------------------------------------- make ui

    def servers(self) -> None:
        ports = ("--mlflow-port", "5311", "--prefect-port", "4211")
        with self.started("-m", "flows.ui", *ports) as lines:
            said = [line.split() for line in iter(lines.__next__, "Ctrl-C ends both.\n")]
            addresses = {words[0]: words[1] for words in said if words[0] in ("MLflow", "Prefect")}
            self.environment["PREFECT_API_URL"] = urllib.parse.urljoin(addresses["Prefect"], "api")
            if len(self.pipelines()) < 2:
                params = Project(self.root).params
                params.write_text(params.read_text().replace("max_masks: 1000", "max_masks: 100", 1))
            self.run("-m", "flows.pipeline")
            self.prefect(addresses["Prefect"])
            self.mlflow(addresses["MLflow"])

    def pipelines(self) -> list[str]:
        """MLflow's ids of the pipelines' runs, the newest first."""
        client = tracking_client(self.root)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        found = client.search_runs([experiment.experiment_id], "tags.`sohes.kind` = 'pipeline'")
        return [run.info.run_id for run in found]

    def prefect(self, address: str) -> None:
        page = self.page(1280, 1000)
        page.goto(f"{address}runs")
        page.locator("a[href*='/runs/flow-run/']").first.click()
        page.get_by_text("report", exact=True).first.wait_for()
        self.shoot(page, "prefect-run")
        page.get_by_text("Artifacts", exact=True).first.click()
        self.shoot(page, "prefect-artifacts")
        page.get_by_text("picture", exact=True).first.click()
        page.locator("img[src^='data:image']").first.wait_for()
        self.shoot(page, "prefect-picture")

    def mlflow(self, address: str) -> None:
        page = self.page(1280, 700)
        # The assistant opens by itself once and covers a quarter of the page.
        page.add_init_script("localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false')")
        page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        page.goto(address)
        page.get_by_role("button", name="Columns", exact=True).click()
        for column in ("Dataset", "Source", "Models", "explore/AR", "instruct/AR", "correct/AR"):
            page.get_by_placeholder("Search columns").fill(column)
            page.wait_for_timeout(1000)  # the list follows a moment later
            row = page.get_by_test_id("column-selector-tree").locator("[class*=tree-treenode]")
            row.filter(has_text=re.compile(f"^{column}$")).first.locator("[class*=tree-checkbox]").first.click()
        page.keyboard.press("Escape")
        self.shoot(page, "mlflow-runs")

        newest, *_ = chosen = self.pipelines()[:2]
        base, _, view = address.partition("?")
        page.goto(f"{base}/runs/{newest}?{view}")
        page.get_by_text("Show more").first.click()
        self.shoot(page, "mlflow-pipeline")

        experiment = base.rpartition("/")[2]
        query = urllib.parse.urlencode({"runs": json.dumps(chosen), "experiments": json.dumps([experiment])})
        page.goto(f"{address.partition('#')[0]}#/compare-runs?{query}&{view}")
        page.locator(".js-plotly-plot").first.wait_for()
        page.get_by_role("combobox").nth(1).click()
        page.keyboard.type("correct/AR")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        page.mouse.move(5, 5)
        page.wait_for_timeout(1000)
        axes = page.evaluate("document.querySelector('.js-plotly-plot').data[0].dimensions.map(one => one.values)")
        if len(axes) < 3 or any(None in values for values in axes) or len(set(axes[-1])) < 2:
            self.faults.append(f"the chart that compares two pipelines is empty: {axes}")
        self.shoot(page, "mlflow-compare")

    # ---------------------------------------------------------------- processes and pages

    def run(self, *command: str) -> None:
        subprocess.run([sys.executable, *command], cwd=self.root, env=self.environment, check=True)

    @contextmanager
    def started(self, *command: str) -> Iterator[Iterator[str]]:
        """What a Python command says, line by line, while it runs; at the end it gets SIGTERM."""
        process = subprocess.Popen(
            [sys.executable, *command], cwd=self.root, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        with ExitStack() as stack:
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)  # Ctrl-C is ignored below a shell that started the walk in the background
            assert process.stdout is not None
            yield iter(process.stdout.readline, "")

    def page(self, width: int, height: int, **options: str) -> Any:
        """A page of a fresh profile whose errors and requests are watched."""
        page = self.browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(120_000)
        page.on("request", lambda request: self.asked(request.url))
        page.on("websocket", lambda socket: self.asked(socket.url))
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self.heard(page.url, message))
        return page

    def asked(self, url: str) -> None:
        if not url.startswith(HERE):
            self.faults.append(f"asked for {url}, which is not on this machine")

    def heard(self, url: str, message: Any) -> None:
        said = f"{message.text} ({message.location['url']})"
        if message.type == "error" and not any(words in said for words in THEIRS):
            self.faults.append(f"{url}: {said}")

    def shoot(self, page: Any, name: str) -> None:
        page.wait_for_timeout(3000)  # charts and lists move until they are complete
        page.screenshot(path=self.out / f"{name}.png")
        print(f"{name}: {page.url}", flush=True)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            self.faults.append(f"{name} is {wide} pixels wider than its window")


if __name__ == "__main__":
    main()
