"""Runs stages of the GPU check one after another and prints a line of JSON for each event. `check.py` starts it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

# Name, which is its module's in `stages`, and its share of the time. The most valuable comes first.
STAGES = {
    "agreement": 15,
    "training": 45,
    "loader": 30,
    "explore": 45,
    "inference": 20,
    "correct": 15,
    "falls": 10,
    "compile": 60,
}


def allotted(stages: list[str], seconds: float) -> float:
    """Seconds of the first of the stages that are left."""
    return seconds * STAGES[stages[0]] / sum(STAGES[stage] for stage in stages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="+", choices=list(STAGES))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photographs", type=Path)
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    import torch

    from infra.gpu.lab import Lab, forget

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lab = Lab(device, given.out / "scratch", given.weights, given.photographs, end)
    lab.folder.mkdir(parents=True, exist_ok=True)
    tell(event="machine", **machine(device))
    if not lab.toy:
        threading.Thread(target=compile_kernels, daemon=True).start()
    for number, stage in enumerate(given.stages):
        name = f"infra.gpu.stages.{stage}"
        with contextlib.suppress(Exception):  # before the stage's clock; a failure comes again below
            importlib.import_module(name)
        started = time.monotonic()
        limit = allotted(given.stages[number:], end - started)
        tell(event="begin", stage=stage, seconds=round(limit, 1))
        lab.deadline = started + limit
        try:
            for row in importlib.import_module(name).run(lab):
                tell(event="row", stage=stage, **row)
        except Exception as error:  # the next stage may still work
            words = (str(error).strip().splitlines() or [""])[0]
            tell(event="row", stage=stage, what="failed", error=f"{type(error).__name__}: {words}"[:500])
        tell(event="end", stage=stage, seconds=round(time.monotonic() - started, 1))
        forget(lab)


def compile_kernels() -> None:
    """Beside the first stages, so that `explore` finds numba's cache filled."""
    code = "from infra.gpu.stages.explore import compile_kernels; compile_kernels()"
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False)


def machine(device) -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    memory = round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if gpu else None
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"gpu": gpu, "gpu_gb": memory, "cores": os.cpu_count(), **versions}


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
