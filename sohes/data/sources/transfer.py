"""Fetch files by https or from a folder, resuming interrupted transfers and checking digests.

Timeouts and retries are set here and not in params.yaml, because they change no result and must not make a finished
stage stale.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import urllib3
from filelock import FileLock

from sohes.errors import SohesError, TemporaryError
from sohes.project import read_json
from sohes.work.files import digest_file, write_json

Result = TypeVar("Result")
ENOUGH = 2**20  # bytes of progress that reset the count of failed attempts
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """Retries and waits. attempts: failures in a row without a MiB of progress. All others in seconds."""

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 60.0

    def wait(self, failures: int) -> float:
        """Seconds before the next attempt: doubling, with jitter so that workers do not all return at the same time."""
        return min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENCE = Patience()


class LinkRefused(SohesError):
    """The server refuses this link for good. `status`: the HTTP status."""

    status = 0


class TransferFailed(Exception):
    """An attempt failed and a retry may help. `progress`: bytes received; `wait`: seconds the server asked for."""

    def __init__(self, reason: str, progress: int = 0, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.progress, self.wait = progress, wait


def shown(url: str) -> str:
    """The link without its user and query, which may hold passwords and signatures."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else url


def check_disk(folder: Path, needed: int, what: str) -> None:
    """SohesError if `needed` bytes do not fit on the file system of `folder`, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        unit, name = (2**30, "GiB") if needed >= 2**30 else (2**20, "MiB")
        raise SohesError(
            f"{what} needs {needed / unit:.1f} {name} on the disk of {folder}, but only {free / unit:.1f} are free: "
            "free some space and run the same command again"
        )


def persist(attempt: Callable[[], Result], what: str, patience: Patience = PATIENCE) -> Result:
    """Repeat `attempt` with growing pauses while it raises TransferFailed; SohesError after the last one."""
    failures = 0
    while True:
        try:
            return attempt()
        except TransferFailed as error:
            failures = 1 if error.progress >= ENOUGH else failures + 1
            if failures >= patience.attempts:
                raise TemporaryError(
                    f"{what}: {error}, {failures} times in a row: what was received is kept, run the same command again"
                ) from None
            time.sleep(max(patience.wait(failures), min(error.wait, patience.longest_wait)))


def fetch(url: str, path: Path, *, digest: str | None = None, patience: Patience = PATIENCE) -> str:
    """Fetch a file by https, http or file:// to `path`, completely or not at all. Returns its digest.

    `<path>.part` of an earlier call is continued if the file on the server is still the same. If the digest is wrong,
    the file is fetched once more. LinkRefused for 4xx, SohesError if fetching fails or the disk is too small.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        return checked(lambda: _fetch(url, path, patience), path, digest, shown(url))


def checked(bring: Callable[[], object], path: Path, digest: str | None, what: str) -> str:
    """The digest of `path`, fetched with `bring` if missing; a file with a wrong digest is fetched once more."""
    found = ""
    for _ in range(2):
        if not path.exists():
            bring()
        found = digest_file(path)
        if digest in (None, found):
            return found
        path.unlink()
    raise SohesError(f"{what} has the digest {found}, but {digest} was expected, twice: the list or the file is wrong")


def _fetch(url: str, path: Path, patience: Patience) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        _copy(Path(unquote(parts.path)), path)
        return
    if parts.scheme not in ("http", "https"):
        raise SohesError(f"{shown(url)}: only https, http and file can be fetched (got {parts.scheme})")
    part = path.with_name(f"{path.name}.part")
    pool = urllib3.PoolManager(timeout=urllib3.Timeout(patience.timeout))
    try:
        persist(lambda: _attempt(pool, url, part), shown(url), patience)
    finally:
        pool.clear()
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _copy(source: Path, path: Path) -> None:
    if not source.is_file():
        raise SohesError(f"no such file: {source}")
    check_disk(path.parent, 2 * source.stat().st_size, path.name)
    part = path.with_name(f"{path.name}.part")
    shutil.copyfile(source, part)
    part.replace(path)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _known(part: Path) -> dict[str, Any]:
    """The size and the validator of the file on the server; empty if they are not known."""
    try:
        return read_json(_note(part), "", needs=["total", "validator"])
    except (FileNotFoundError, SohesError):
        return {}


def _attempt(pool: urllib3.PoolManager, url: str, part: Path) -> None:
    """Continue `part` to its end, or raise TransferFailed with the progress of this attempt."""
    have = part.stat().st_size if part.exists() else 0
    known = _known(part) if have else {}
    if not known:
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if known["validator"]:
            headers["If-Range"] = known["validator"]
    began = have
    try:
        retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)
        response = pool.request("GET", url, headers=headers, preload_content=False, retries=retries)
        try:
            if have == known.get("total") and response.status == 416:
                return
            have = began = _accepted(response, url, have, known, part)
            with part.open("r+b" if have else "wb") as file:
                file.seek(have)
                for chunk in response.stream(2**16, decode_content=False):
                    file.write(chunk)
                    have += len(chunk)
        finally:
            response.close()
    except (urllib3.exceptions.HTTPError, TimeoutError, ConnectionError) as error:
        raise TransferFailed(_reason(error), have - began) from None
    total = _known(part).get("total")
    if total is not None and have != total:
        raise TransferFailed(f"only {have} of {total} bytes arrived", have - began)


def _accepted(response: urllib3.BaseHTTPResponse, url: str, have: int, known: dict[str, Any], part: Path) -> int:
    """The offset at which the response's body starts. At 0, records the file's size and validator."""
    status = response.status
    if status in TEMPORARY:
        wait = response.headers.get("Retry-After", "")
        raise TransferFailed(f"the server answers {status}", wait=float(wait) if wait.isdecimal() else 0.0)
    if status == 206 and have:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.startswith(f"{have}-") and total in (str(known["total"]), "*"):
            return have
    if status in (206, 416):  # not the range we asked for, or of another file: start over
        _note(part).unlink(missing_ok=True)
        raise TransferFailed("the file has changed on the server")
    if status != 200:
        refused = LinkRefused(f"{shown(url)} was refused (HTTP status {status}): fix the address or get a fresh link")
        refused.status = status
        raise refused
    length = response.headers.get("Content-Length", "")
    total_bytes = int(length) if length.isdecimal() else None
    # For the file itself, and for its photographs, which are packed before it is removed.
    check_disk(part.parent, 2 * (total_bytes or 0), part.name.removesuffix(".part"))
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    write_json(_note(part), {"total": total_bytes, "validator": validator})
    return 0


def _reason(error: BaseException) -> str:
    """The reason without the address, which may hold a signature; the caller names it."""
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server does not respond"
    if isinstance(error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.ProtocolError):
        return "the connection was cut"
    if isinstance(error, urllib3.exceptions.MaxRetryError):
        return f"no connection ({type(error.reason).__name__})"
    return f"no connection ({type(error).__name__})"
