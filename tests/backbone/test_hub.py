"""Against a fake of the hub: nothing leaves this machine."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest

from sohes.backbone import hub

NAME = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """A hub that has one model."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            there = self.path == f"/timm/{NAME}/resolve/main/model.safetensors"
            self.send_response(200 if there else 404)
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield address
    server.shutdown()
    server.server_close()


def test_what_the_hub_has_can_be_had(endpoint):
    assert hub.out_of_reach(NAME) is None
    assert hub.out_of_reach(f"hf-hub:timm/{NAME}") is None


def test_why_it_cannot_be_had_is_told(endpoint, monkeypatch):
    assert "404" in hub.out_of_reach("vit_huge.nobody")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.out_of_reach(NAME) == "HF_HUB_OFFLINE is set"
    monkeypatch.setattr(hub, "is_installed", lambda package: False)
    assert hub.out_of_reach(NAME) == "the package huggingface_hub is not installed"


def test_what_is_cached_needs_no_hub(monkeypatch):
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repository, file: f"/cache/{repository}/{file}"
    )
    assert hub.is_cached(NAME)
    assert hub.out_of_reach(NAME) is None  # though the tests are offline
