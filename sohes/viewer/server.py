"""Serve the viewer's pages and data over HTTP, on this machine only."""

from __future__ import annotations

import json
import sys
import threading
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import urlsplit

from sohes.errors import SohesError
from sohes.viewer.gallery import Gallery, as_shown

HOST = "127.0.0.1"
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/viewer.css": ("viewer.css", "text/css; charset=utf-8"),
    "/viewer.js": ("viewer.js", "text/javascript; charset=utf-8"),
    "/panel.js": ("panel.js", "text/javascript; charset=utf-8"),
    "/tree.js": ("tree.js", "text/javascript; charset=utf-8"),
    "/masks.js": ("masks.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Enforced by the browser: nothing is fetched from, or sent to, anywhere else.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'"
KEPT = 8  # pictures cached in memory


def make_server(gallery: Gallery, *, title: str, port: int = 0) -> ThreadingHTTPServer:
    """A server for the gallery on 127.0.0.1, not yet running. Port 0: any free one. SohesError if the port is taken."""

    @lru_cache(maxsize=KEPT)
    def shown(place: int) -> tuple[bytes, bytes]:
        photo, content = as_shown(gallery.read(place))
        return photo, json.dumps({"name": gallery.names[place], **content}).encode()

    one_at_a_time = threading.Lock()  # else the first requests of a picture each compute it

    def shown_once(place: int) -> tuple[bytes, bytes]:
        with one_at_a_time:
            return shown(place)

    index = json.dumps({"title": title, "names": gallery.names}).encode()
    try:
        return _Server((HOST, port), partial(_Handler, index, shown_once, len(gallery.names)))
    except OSError as error:
        raise SohesError(f"port {port} of {HOST} cannot be used ({error.strerror}): name another with --port") from None


class _Server(ThreadingHTTPServer):
    """Prints no traceback when a browser hangs up, as it does when somebody turns the page quickly."""

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET only: the pages, `/index.json`, `/picture/K.json` and `/picture/K.jpg`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, index, shown, count, *arguments) -> None:
        self.index, self.shown, self.count = index, shown, count
        super().__init__(*arguments)

    def do_GET(self) -> None:
        # Against DNS rebinding: a foreign page whose name points here must not read the user's photographs.
        # The port is not checked: it differs behind `ssh -L`, and browsers leave out port 80.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            return self._send(HTTPStatus.FORBIDDEN, b"this page answers on 127.0.0.1 only", "text/plain")
        path = urlsplit(self.path).path
        if path in PAGES:
            name, kind = PAGES[path]
            return self._send(HTTPStatus.OK, resources.files("sohes.viewer").joinpath(name).read_bytes(), kind)
        if path == "/index.json":
            return self._send(HTTPStatus.OK, self.index, "application/json")
        place, _, kind = path.removeprefix("/picture/").partition(".")
        if not path.startswith("/picture/") or not place.isdecimal() or int(place) >= self.count:
            return self._send(HTTPStatus.NOT_FOUND, b"no such page", "text/plain")
        try:
            photo, content = self.shown(int(place))
        except (SohesError, OSError, ValueError) as error:  # ValueError: a damaged shard, or a cycle in its parents
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8")
        if kind == "jpg":
            return self._send(HTTPStatus.OK, photo, "image/jpeg")
        return self._send(HTTPStatus.OK, content, "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing: the terminal belongs to the user."""
