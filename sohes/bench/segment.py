"""`sohes bench segment`: what somebody waits for who wants the masks of one photograph, from the shell and back."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sohes.data.scenes import render_scene
from sohes.errors import SohesError
from sohes.evaluate.pictures import encode_jpeg

HEIGHT, WIDTH = 1500, 2250
LIBRARIES = "import cv2, numba, timm, torch"  # what the command cannot do without


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float
    peak_mb: float


def bench_segment(
    model: Path = Path("models/correct.safetensors"),
    params: Path = Path("params.yaml"),
    photo: Path | None = None,
    repeats: int = 5,
    reference: bool = False,
) -> dict[str, str | float]:
    """The command `sohes segment` on one photograph, by default a drawn one of 1500 x 2250 pixels.

    Keys name, seconds_median, cpu_seconds_median, peak_mb (of the command's process). reference: also a Python that
    only imports the libraries that the command needs; adds reference_cpu_seconds and ratio (ours over the reference).
    SohesError if the command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if photo is None:
            photo = folder / "scene.jpg"
            scene = render_scene(0, size=max(HEIGHT, WIDTH) // 4, seed=0).image_HW3
            photo.write_bytes(encode_jpeg(cv2.resize(scene, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)))
        options = ["--model", str(model), "--params", str(params), "--out", str(folder / "out")]
        command = [sys.executable, "-m", "sohes", "segment", str(photo), *options]
        costs = [_cost(command, folder / "log") for _ in range(repeats)]
        result: dict[str, str | float] = {
            "name": "segment",
            "seconds_median": round(statistics.median(cost.seconds for cost in costs), 3),
            "cpu_seconds_median": round(statistics.median(cost.cpu_seconds for cost in costs), 3),
            "peak_mb": round(max(cost.peak_mb for cost in costs), 1),
        }
        if reference:
            bare = [_cost([sys.executable, "-c", LIBRARIES], folder / "log") for _ in range(repeats)]
            seconds = statistics.median(cost.cpu_seconds for cost in bare)
            result["reference_cpu_seconds"] = round(seconds, 3)
            result["ratio"] = round(float(np.median([cost.cpu_seconds for cost in costs])) / seconds, 3)
    return result


def _cost(command: list[str], log: Path) -> Cost:
    """What a command takes, by the kernel's own account of its process. SohesError, with its last line, if it fails."""
    with log.open("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SohesError(f"`{' '.join(command)}` failed: {(log.read_text().splitlines() or ['it said nothing'])[-1]}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
