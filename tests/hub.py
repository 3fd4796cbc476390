"""A Hugging Face hub on loopback, as far as its client needs one to put files there and to fetch them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import pytest
from processes import serving

TOKEN = "hf_of_the_test"
LARGE = ".safetensors"  # goes round the commit, as LFS


@dataclass
class Hub:
    """repositories: commits by name, the oldest first, each the files by path. requests: method and path of all.

    dead: answer 503 to everything.
    """

    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    dead: bool = False
    address: str = ""

    def commit(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The id and files of a commit: by its id, or the newest of `main`."""
        commits = self.repositories.get(repository, [])
        ids = {f"{number:040x}": files for number, files in enumerate(commits, 1)}
        if revision == "main" and commits:
            revision = f"{len(commits):040x}"
        return (revision, ids[revision]) if revision in ids else None


@contextmanager
def serving_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that the client in this process talks to. The client reads HF_ENDPOINT once, when it is imported."""
    hub = Hub()
    with serving(handler_of(hub)) as hub.address:
        point_to(hub.address, monkeypatch)
        yield hub


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of its own for large files


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: object = b"", **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def missing(self, code: str) -> None:
            self.answer(404, {"error": "not found"}, X_Error_Code=code)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def handle_one(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            body = self.body()
            if hub.dead:
                self.answer(503)
            elif self.command in ("GET", "HEAD"):
                self.read(path)
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/lfs/"):
                self.answer(401, {"error": "log in first"})
            else:
                self.write(path, body)

        do_GET = do_HEAD = do_POST = do_PUT = handle_one

        def read(self, path: str) -> None:
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"] and "/".join(parts[2:]) in hub.repositories:
                name = "/".join(parts[2:])
                self.answer(200, {"id": name, "private": name in hub.private, "siblings": [], "tags": []})
                return
            if parts[:2] == ["api", "models"] and len(parts) > 5 and parts[4] in ("revision", "tree"):
                repository, revision = "/".join(parts[2:4]), parts[5]
            elif len(parts) > 4 and parts[2] == "resolve":
                repository, revision = "/".join(parts[:2]), parts[3]
            else:
                self.answer(404)
                return
            found = hub.commit(repository, revision)
            if found is None:
                self.missing("RevisionNotFound" if repository in hub.repositories else "RepoNotFound")
                return
            commit, files = found
            if parts[0] == "api" and parts[4] == "revision":
                names = [{"rfilename": name} for name in files]
                self.answer(200, {"id": repository, "sha": commit, "siblings": names, "private": False, "tags": []})
            elif parts[0] == "api":
                self.answer(200, [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ])  # fmt: skip
            elif (name := "/".join(parts[4:])) not in files:
                self.missing("EntryNotFound")
            else:
                data = files[name]
                etag = f'"{hashlib.sha1(data).hexdigest()}"'
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-") or 0)
                self.answer(206 if start else 200, data[start:], X_Repo_Commit=commit, ETag=etag)

        def write(self, path: str, body: bytes) -> None:
            parts = path.strip("/").split("/")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                status = 409 if name in hub.repositories else 200
                hub.repositories.setdefault(name, [])
                if status == 200 and "private" in (asked.get("visibility"), asked.get("private") and "private"):
                    hub.private.add(name)  # later ones ask in the first way
                self.answer(status, {"url": f"{base(self)}/{name}", "name": name})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif "preupload" in parts:
                files = [
                    {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                     "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]  # fmt: skip
                self.answer(200, {"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**item, "actions": {"upload": {"href": f"{base(self)}/lfs/{item['oid']}"}}}
                    for item in json.loads(body)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            elif parts[0] == "lfs":
                assert hashlib.sha256(body).hexdigest() == parts[1]
                hub.uploaded[parts[1]] = body
                self.answer(200)
            elif parts[4] == "commit":
                repository = "/".join(parts[2:4])
                commits = hub.repositories[repository]
                commits.append({**(commits[-1] if commits else {}), **committed(body)})
                address = f"{base(self)}/{repository}/commit/{len(commits):040x}"
                self.answer(200, {"commitUrl": address, "commitOid": f"{len(commits):040x}", "success": True})
            else:
                self.answer(404)

        def log_message(self, *_: object) -> None:
            pass

    def base(handler: BaseHTTPRequestHandler) -> str:
        host, port = handler.server.server_address[:2]
        return f"http://{host!s}:{port}"

    def committed(body: bytes) -> dict[str, bytes]:
        files = {}
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                files[item["value"]["path"]] = hub.uploaded[item["value"]["oid"]]
        return files

    return Handler
