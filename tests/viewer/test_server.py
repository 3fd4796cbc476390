import http.client
import json
import socket
import struct
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from urllib.parse import urlsplit

import numpy as np
import pytest

from sohes import masks
from sohes.bench.viewer import serving
from sohes.errors import SohesError
from sohes.viewer.gallery import Picture
from sohes.viewer.server import PAGES, make_server


class OneGood:
    """Three pictures. The second cannot be read, and the parents of the third form a cycle."""

    names = ("good", "bad", "cycle")

    def read(self, place):
        if place == 1:
            raise SohesError("the shard is gone: pull again")
        if place == 2:
            circle = masks.mask_set(np.ones((2, 4, 5), bool), parents=np.array([1, 0]))
            return Picture(np.zeros((4, 5, 3), np.uint8), {"masks": circle})
        return Picture(np.zeros((4, 5, 3), np.uint8), {"masks": masks.mask_set(np.ones((1, 4, 5), bool))})


@pytest.fixture
def get():
    with serving(OneGood(), title="test") as address:

        def ask(path: str, method: str = "GET", **headers: str):
            connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=10)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer, body

        yield ask


def test_it_serves_its_pages_and_the_pictures(get):
    assert json.loads(get("/index.json")[1]) == {"title": "test", "names": ["good", "bad", "cycle"]}
    content = json.loads(get("/picture/0.json")[1])
    assert (content["name"], content["height"], content["width"]) == ("good", 4, 5)
    assert get("/picture/0.jpg")[0].getheader("Content-Type") == "image/jpeg"
    for path, (name, _) in PAGES.items():
        answer, body = get(path)
        assert answer.status == 200
        assert body == resources.files("sohes.viewer").joinpath(name).read_bytes()
        assert "connect-src 'self'" in answer.getheader("Content-Security-Policy")


def test_every_file_of_the_page_is_served(repository):
    files = {path.name for path in (repository / "sohes/viewer").iterdir() if path.suffix not in (".py", "")}
    assert files == {name for name, _ in PAGES.values()}


def test_a_picture_that_cannot_be_read_says_why(get):
    answer, body = get("/picture/1.json")
    assert (answer.status, body.decode()) == (500, "the shard is gone: pull again")
    answer, body = get("/picture/2.json")
    assert (answer.status, body.decode()) == (500, "the parents form a cycle above mask 0")


class Slow:
    """A picture that takes a while, and counts how often it is read."""

    names = ("slow",)

    def __init__(self):
        self.reads = 0

    def read(self, place):
        self.reads += 1
        time.sleep(0.2)
        return Picture(np.zeros((4, 5, 3), np.uint8), {"masks": masks.empty_mask_set(4, 5)})


def test_requests_of_one_picture_at_the_same_time_read_it_once():
    gallery = Slow()
    with serving(gallery, title="test") as address, ThreadPoolExecutor(4) as threads:
        asked = [f"{address}picture/0.{kind}" for kind in ("json", "jpg", "json", "jpg")]
        answers = list(threads.map(lambda url: urllib.request.urlopen(url, timeout=10).status, asked))
    assert answers == [200] * 4
    assert gallery.reads == 1


class Large:
    """A picture too large for a socket's buffer."""

    names = ("noise",)

    def read(self, place):
        noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
        return Picture(noise, {"masks": masks.empty_mask_set(1024, 1024)})


def test_a_browser_that_hangs_up_leaves_no_traceback(capsys):
    with serving(Large(), title="test") as address:
        with socket.create_connection(urlsplit(address).netloc.split(":"), timeout=10) as browser:
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() resets
            browser.sendall(b"GET /picture/0.jpg HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n")
            assert browser.recv(100).startswith(b"HTTP/1.1 200")
        for thread in threading.enumerate():
            if thread.name.startswith("Thread-") and "process_request" in thread.name:
                thread.join(timeout=10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "path", ["/picture/3.json", "/picture/-1.json", "/picture/x.jpg", "/../cli.py", "/server.py", "/x"]
)
def test_other_paths_are_not_found(get, path):
    assert get(path)[0].status == 404


def test_a_foreign_host_name_is_refused(get):
    assert get("/index.json", Host="evil.example")[0].status == 403
    assert get("/index.json", Host="evil.example:80")[0].status == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:9000"])
def test_its_own_names_are_accepted_with_and_without_a_port(get, host):
    assert get("/index.json", Host=host)[0].status == 200


def test_only_get_is_allowed(get):
    assert get("/index.json", method="POST")[0].status == 501


def test_a_taken_port_is_reported():
    with make_server(OneGood(), title="") as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(SohesError, match="name another with --port"):
            make_server(OneGood(), title="", port=server.server_port)
