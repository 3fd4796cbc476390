from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError, get_context
from multiprocessing.connection import Client, Listener
from pathlib import Path

import numpy as np
import pytest

from sohes.explore import feature_server
from sohes.explore.feature_server import FeatureServer, RemoteExtract, shared_extractor
from sohes.params import load_params


def doubled(images: list[np.ndarray]) -> list[np.ndarray]:
    if images[0][0, 0, 0] == 13:
        raise ValueError("an odd image")
    return [2 * image.astype(np.float32) for image in images]


@pytest.fixture
def server():
    server = FeatureServer(doubled)
    yield server
    server.close()


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def ask_and_stay(remote: RemoteExtract, answers) -> None:
    answers.put(float(remote([picture(3)])[0].sum()))
    time.sleep(60)


def test_features_are_those_of_the_extractor_and_errors_its_errors(server) -> None:
    remote = pickle.loads(pickle.dumps(server.remote))
    found = remote([picture(1), picture(2)])
    np.testing.assert_array_equal(found[1], doubled([picture(2)])[0])
    assert found[0].dtype == np.float32
    with pytest.raises(ValueError, match="an odd image"):
        remote([picture(13)])
    np.testing.assert_array_equal(remote([picture(5)])[0], doubled([picture(5)])[0])
    remote.close()


def test_many_workers_get_their_own_and_one_is_served_at_a_time() -> None:
    busy, most = 0, 0
    lock = threading.Lock()

    def extract(images: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.005)
        with lock:
            busy -= 1
        return doubled(images)

    server = FeatureServer(extract)

    def work(value: int) -> list[float]:
        remote = pickle.loads(pickle.dumps(server.remote))
        found = [float(remote([picture(value)])[0][0, 0, 0]) for _ in range(5)]
        remote.close()
        return found

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(20, 26)))
    server.close()
    assert results == [[2.0 * value] * 5 for value in range(20, 26)]
    assert most == 1


def test_a_worker_that_dies_does_not_stop_the_others(server) -> None:
    context = get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=ask_and_stay, args=(server.remote, answers))
    worker.start()
    assert answers.get(timeout=120) == 3 * 2 * 4 * 6 * 3
    worker.kill()
    worker.join()
    assert server.remote([picture(4)])[0][0, 0, 0] == 8


def test_a_server_that_dies_in_the_middle_is_no_fault_of_the_image() -> None:
    """Its end has to be an OSError: phase 1 takes other errors for the image's, and would name it as rejected."""
    listener = Listener(family="AF_UNIX", authkey=b"key")

    def die() -> None:
        with listener.accept() as connection:
            connection.recv()

    dying = threading.Thread(target=die)
    dying.start()
    remote = RemoteExtract(listener.address, b"key")
    with pytest.raises(ConnectionError, match="has ended"):
        remote([picture(1)])
    dying.join()
    listener.close()
    remote.close()


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class LocalError(Exception):
        pass

    def extract(images: list[np.ndarray]) -> list[np.ndarray]:
        raise LocalError("out of order")

    server = FeatureServer(extract)
    with pytest.raises(RuntimeError, match="out of order"):
        server.remote([picture(1)])
    server.close()


def test_it_can_be_closed_in_the_very_moment_of_a_connection() -> None:
    for _ in range(30):
        server = FeatureServer(doubled)
        server.remote([picture(1)])
        server.close()
        assert not server._accepting.is_alive()


def test_a_stranger_without_the_key_gets_nothing(server) -> None:
    with pytest.raises(AuthenticationError):
        Client(server.remote.address, authkey=b"guess")
    assert server.remote([picture(4)])[0][0, 0, 0] == 8


def test_only_a_pool_with_a_gpu_shares_an_extractor(repository, monkeypatch: pytest.MonkeyPatch) -> None:
    handmade = load_params(repository / "params.yaml").explore
    tokens = handmade.model_copy(update={"features": "tokens"})
    monkeypatch.setattr(feature_server, "make_extractor", lambda params, backbone: doubled)
    for gpu in (False, True):
        monkeypatch.setattr(feature_server, "_has_gpu", lambda gpu=gpu: gpu)
        for params, workers in ((handmade, 4), (tokens, 1), (tokens, 4)):
            with shared_extractor(params, Path(), workers=workers) as extract:
                assert (extract is not None) == (gpu and params is tokens and workers == 4)
                if extract is not None:
                    assert extract([picture(7)])[0][0, 0, 0] == 14
