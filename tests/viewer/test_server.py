import http.client
import json
from importlib import resources

import numpy as np
import pytest

from sohes import masks
from sohes.bench.viewer import serving
from sohes.errors import SohesError
from sohes.viewer.gallery import Picture
from sohes.viewer.server import PAGES, make_server


class OneGood:
    """Two pictures, the second of which cannot be read."""

    names = ("good", "bad")

    def read(self, place):
        if place:
            raise SohesError("the shard is gone: pull again")
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
    assert json.loads(get("/index.json")[1]) == {"title": "test", "names": ["good", "bad"]}
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


@pytest.mark.parametrize(
    "path", ["/picture/2.json", "/picture/-1.json", "/picture/x.jpg", "/../cli.py", "/server.py", "/x"]
)
def test_nothing_else_is_there(get, path):
    assert get(path)[0].status == 404


def test_a_strangers_name_for_this_address_gets_nothing(get):
    assert get("/index.json", Host="evil.example:80")[0].status == 403


def test_it_only_reads(get):
    assert get("/index.json", method="POST")[0].status == 501


def test_a_taken_port_is_one_sentence():
    with make_server(OneGood(), title="") as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(SohesError, match="name another with --port"):
            make_server(OneGood(), title="", port=server.server_port)
