"""Phase 1 on one node, simulated: images a second by the number of workers beside a GPU, and where more are no help."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sohes.errors import SohesError
from sohes.explore.feature_server import FeatureServer, RemoteExtract

IMAGES_EACH = 6
FASTER = 5  # than real time
VARIES = 0.5  # of the mean: how much longer or shorter an image takes at most
GAIN = 1.1


def bench_stream(
    *, gpu_seconds: float = 0.03, cpu_seconds: float = 1.8, calls: int = 2, most: int = 128
) -> dict[str, str | int | list[int] | list[float]]:
    """The feature server of `sohes explore` between a GPU that sleeps and workers that sleep, 5 times as fast; keys
    name, workers (1, 2, 4 ... up to `most`), images_per_second, gpu_busy (shares), enough.

    gpu_seconds: of one image, in `calls` calls. By default what 13 TFLOP, as we count the paper's ViT and sizes, would
    take at 40 % of an H100's peak; not measured.  cpu_seconds: of one image on one core, by default as measured beside
    an H200.  enough: workers from which twice as many bring less than a tenth; 0 if they always bring more. Moving
    features takes no time here.
    """
    if min(gpu_seconds, cpu_seconds) <= 0 or min(calls, most) < 1:
        raise SohesError("times and counts of the simulation must be positive: correct its options")
    counts = [2**k for k in range(most.bit_length())]
    found = [
        _simulate(workers, gpu_seconds / FASTER / calls, cpu_seconds / FASTER / calls, calls) for workers in counts
    ]
    rates = [rate / FASTER for rate, _ in found]
    enough = (n for n, rate, twice in zip(counts, rates, rates[1:], strict=False) if twice < GAIN * rate)
    return {
        "name": "stream",
        "workers": counts,
        "images_per_second": [round(rate, 2) for rate in rates],
        "gpu_busy": [round(busy, 3) for _, busy in found],
        "enough": next(enough, 0),
    }


def _simulate(workers: int, gpu_seconds: float, cpu_seconds: float, calls: int) -> tuple[float, float]:
    """Images a second, and the share of the time in which the GPU works. Times are of one call."""

    def extract(images: list[np.ndarray]) -> list[np.ndarray]:
        time.sleep(gpu_seconds)
        return images

    server = FeatureServer(extract)
    address, authkey = server.remote.address, server.remote.authkey
    ready = threading.Barrier(workers)

    def work(number: int) -> float:
        remote, random = RemoteExtract(address, authkey), np.random.default_rng(number)
        remote([])  # connects
        ready.wait()
        began = time.perf_counter()
        for spread in random.uniform(1 - VARIES, 1 + VARIES, IMAGES_EACH):
            for _ in range(calls):
                remote([])
                time.sleep(cpu_seconds * spread)
        spent = time.perf_counter() - began
        remote.close()
        return spent

    try:
        with ThreadPoolExecutor(workers) as threads:
            rate = sum(IMAGES_EACH / spent for spent in threads.map(work, range(workers)))
    finally:
        server.close()
    return rate, rate * gpu_seconds * calls
