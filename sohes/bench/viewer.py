"""`sohes bench viewer`: time per frame while the pointer moves over many masks, from a trace of a real Chromium."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from sohes import masks
from sohes.errors import SohesError
from sohes.masks.forest import parents_by_coverage
from sohes.structures import MaskSet
from sohes.viewer.gallery import Gallery, Picture
from sohes.viewer.server import make_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Headless use, and no network traffic of its own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FRAME_MS = 1000 / 60


class Nested:
    """A gallery of one picture: `count` random ellipses with a forest by coverage."""

    names = ("ellipses",)

    def __init__(self, count: int, size: int) -> None:
        self.picture = Picture(*_ellipses(count, size))

    def read(self, place: int) -> Picture:
        return self.picture


def bench_viewer(count: int = 1000, size: int = 1024, moves: int = 300) -> dict:
    """Move the pointer `moves` times over `count` masks of a `size` x `size` picture.

    `script_ms`: wall-clock time of an animation frame's callback, measured by Chromium. `task_ms`: processor time of a
    task of the page's main thread, including style, layout and painting; on a busy machine, wall-clock time would
    include other processes. `tasks_over_16_ms`: tasks that missed a frame. Nothing before the first move counts.
    """
    with serving(Nested(count, size), title="bench") as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector("body[data-ready=yes]")
        page.locator("#score").fill("0")  # show every mask, including weak ones
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = page.locator(".light").bounding_box()
        assert box is not None
        browser.start_tracing(page=page, categories=["devtools.timeline", "disabled-by-default-devtools.timeline"])
        for x, y in np.random.default_rng(0).random((moves, 2)):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        trace = json.loads(browser.stop_tracing())["traceEvents"]
    script = _durations(trace, "FireAnimationFrame")
    tasks = _durations(trace, "RunTask", kind="tdur")
    return {
        "name": "viewer",
        "masks": count,
        "moves": moves,
        "frames": len(script),
        "script_ms": _quantiles(script),
        "task_ms": _quantiles(tasks),
        "tasks_over_16_ms": int((tasks > FRAME_MS).sum()),
    }


@contextmanager
def serving(gallery: Gallery, *, title: str) -> Iterator[str]:
    """Serve the viewer while the block runs; yields its address."""
    with make_server(gallery, title=title) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless and with a fresh profile. SohesError if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise SohesError("no Chromium on this machine: install it, for example with `apt-get install chromium`")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SohesError("playwright is not installed: pip install 'sohes[dev]'") from None
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS), headless=True)
        try:
            yield browser
        finally:
            browser.close()


def _ellipses(count: int, size: int) -> tuple[np.ndarray, dict[str, MaskSet]]:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    drawn = np.zeros((count, size, size), bool)
    for mask in drawn:
        radius = size / 2 * random.random(2) ** 2 + 4
        centre = size * random.random(2)
        mask[:] = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 <= 1
    parents = parents_by_coverage(masks.intersections(drawn), theta_cover=0.9)
    found = masks.mask_set(drawn, scores=random.random(count), parents=parents)
    return random.integers(0, 256, (size, size, 3), np.uint8), {"masks": found}


def _durations(trace: list[dict], name: str, kind: str = "dur") -> np.ndarray:
    """Milliseconds of the events with that name in the page's main thread (the one that runs animation frames).

    kind: `dur` for wall-clock time, `tdur` for the thread's processor time.
    """
    threads = {(event["pid"], event["tid"]) for event in trace if event["name"] == "FireAnimationFrame"}
    spent = [e[kind] for e in trace if e["name"] == name and kind in e and (e["pid"], e["tid"]) in threads]
    return np.array(spent, float) / 1000


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {name: round(float(np.quantile(values, q)), 2) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))}
