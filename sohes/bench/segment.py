"""`sohes bench segment`: how long the command takes for the masks of one photograph."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from sohes.bench.cost import Cost, compared
from sohes.data.imaging import encode_jpeg
from sohes.data.scenes.render import render_scene
from sohes.errors import SohesError
from sohes.project import Project

HEIGHT, WIDTH = 1500, 2250
MODEL, PARAMS = Project(Path()).model("correct"), Project(Path()).params
LIBRARIES = "import cv2, numba, timm, torch"  # what the command has to import


def bench_segment(
    model: Path = MODEL,
    params: Path = PARAMS,
    photo: Path | None = None,
    repeats: int = 5,
    reference: bool = False,
) -> dict[str, str | float]:
    """Run `sohes segment` on one photograph, by default a drawn scene of 1500 x 2250 pixels.

    Keys name, seconds_median, cpu_seconds_median, peak_mb (of the command's process). reference: also a Python that
    only imports the necessary libraries; adds reference_cpu_seconds and ratio (reference over ours). SohesError if the
    command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if photo is None:
            photo = folder / "scene.jpg"
            scene = render_scene(0, size=max(HEIGHT, WIDTH) // 4, seed=0).image_HW3
            photo.write_bytes(encode_jpeg(cv2.resize(scene, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)))
        options = ["--model", str(model), "--params", str(params), "--out", str(folder / "out")]
        command = [sys.executable, "-m", "sohes", "segment", str(photo), *options]
        ours = _cost(command, folder, repeats)
        result: dict[str, str | float] = {"name": "segment", **ours.figures(3)}
        if reference:
            result |= compared(ours, _cost([sys.executable, "-c", LIBRARIES], folder, repeats))
    return result


# The kernel's peak memory of a process includes that of its parent at the fork, so a small process starts it.
STARTER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1] + "/log", "w"), stderr=subprocess.STDOUT)
_, status, used = os.wait4(process.pid, 0)
figures = time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status)
print(json.dumps(figures))
"""


def _cost(command: list[str], folder: Path, repeats: int) -> Cost:
    """Median times and peak memory of a command over several runs. SohesError with its last line if it fails."""
    runs = []
    for _ in range(repeats):
        starter = [sys.executable, "-I", "-S", "-c", STARTER, str(folder), *command]
        *figures, code = json.loads(subprocess.run(starter, stdout=subprocess.PIPE, check=True).stdout)
        if code != 0:
            lines = (folder / "log").read_text().splitlines() or ["no output"]
            raise SohesError(f"`{' '.join(command)}` failed: {lines[-1]}")
        runs.append(figures)
    seconds, cpu_seconds, memory = zip(*runs, strict=True)
    unit = 1e6 if sys.platform == "darwin" else 1e6 / 1024
    return Cost(statistics.median(seconds), statistics.median(cpu_seconds), max(memory) / unit)
