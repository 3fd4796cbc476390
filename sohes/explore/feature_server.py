"""One process computes features on the GPU for a pool of processes that do the rest of phase 1.

The GPU works for one image while another is clustered and refined. A worker requests the features of one image, or of
one batch of its crops, and waits. So there are at most as many requests as workers, which bounds memory. No batch mixes
images, so the labels do not depend on the number of workers.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np

from sohes.explore.local import Extract
from sohes.explore.maps import make_extractor
from sohes.params import ExploreParams


@dataclass
class RemoteExtract:
    """An extractor that asks a `FeatureServer`. It can be pickled: every process opens its own connection."""

    address: Any
    authkey: bytes
    _connection: Connection | None = field(default=None, repr=False)

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        if self._connection is None:
            self._connection = Client(self.address, authkey=self.authkey)
        self._connection.send(images)
        try:
            answer = self._connection.recv()
        except EOFError:  # an OSError, as `send` raises: the machine's fault, not the image's
            raise ConnectionResetError("the process that computes features has ended") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}


class FeatureServer:
    """Computes features for every holder of its `remote`, one request at a time, until it is closed."""

    def __init__(self, extract: Extract) -> None:
        self.extract = extract
        self._turn = threading.Lock()
        self._closing = False
        authkey = os.urandom(32)
        self._listener = Listener(family="AF_UNIX", authkey=authkey)
        self.remote = RemoteExtract(self._listener.address, authkey)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Accept no new connection; open ones end when their other side closes them."""
        self._closing = True
        with socket.socket(socket.AF_UNIX) as nobody:  # wakes the thread if it still waits for a connection
            nobody.connect(self._listener.address)
        self._accepting.join()
        self._listener.close()
        self.remote.close()

    def _accept(self) -> None:
        while not self._closing:
            with suppress(OSError, EOFError, AuthenticationError):  # the client went away, or had another key
                connection = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection, suppress(EOFError, OSError):  # the worker is gone
            while True:
                images = connection.recv()
                answer: list[np.ndarray] | Exception
                with self._turn:
                    try:
                        answer = self.extract(images)
                    except Exception as error:  # raised by the worker, which knows the image
                        answer = _portable(error)
                connection.send(answer)


def _portable(error: Exception) -> Exception:
    """The error in a form that another process can raise."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a library's error that cannot be pickled
        return RuntimeError(str(error) or type(error).__name__)
    return error


@contextmanager
def shared_extractor(params: ExploreParams, backbone: Path, *, workers: int) -> Iterator[Extract | None]:
    """The extractor that a pool of `workers` shares; None where each worker should load its own backbone: with no GPU,
    with one worker, and for handmade features."""
    if not params.uses_backbone or workers <= 1 or not _has_gpu():
        yield None
        return
    server = FeatureServer(make_extractor(params, backbone))
    try:
        yield server.remote
    finally:
        server.close()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
