"""Bytes from elsewhere: a file by https or from a folder, resumed where it was cut, checked before it counts.

How patient a transfer is changes no result, so these numbers stand here and not in params.yaml: another network must
not make a finished stage stale.
"""

from __future__ import annotations

import json
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
from sohes.work.files import digest_file, write_json

Result = TypeVar("Result")
ENOUGH = 2**20  # bytes of progress after which a transfer has earned its attempts anew
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How often and how long. attempts: in a row without a MiB of progress. timeout: seconds of silence."""

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    timeout: float = 60.0

    def wait(self, failures: int) -> float:
        """Seconds before the next attempt: doubling, with a spread that keeps many workers from returning at once."""
        return min(self.longest_wait, self.first_wait * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)


PATIENCE = Patience()


class LinkRefused(SohesError):
    """The server says that there is nothing to be had under this link, or not any more. `status`: its HTTP status."""

    status = 0


class TransferFailed(Exception):
    """One attempt failed in a way that another may not. `progress`: bytes it brought; `wait`: what the server asks."""

    def __init__(self, reason: str, progress: int = 0, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.progress, self.wait = progress, wait


def shown(url: str) -> str:
    """A link for people: without its query and its user, where signatures and passwords are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else url


def check_disk(folder: Path, needed: int, what: str) -> None:
    """SohesError if `needed` bytes do not fit on the file system of `folder`, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        gib = 2**30
        raise SohesError(
            f"{what} needs {needed / gib:.1f} GiB on the disk of {folder} and {free / gib:.1f} GiB are free: "
            "free some space and run the same command again"
        )


def persist(attempt: Callable[[], Result], what: str, patience: Patience = PATIENCE) -> Result:
    """Repeat `attempt` while it raises TransferFailed, with growing pauses; SohesError when patience is at an end."""
    failures = 0
    while True:
        try:
            return attempt()
        except TransferFailed as error:
            failures = 1 if error.progress >= ENOUGH else failures + 1
            if failures >= patience.attempts:
                raise TemporaryError(
                    f"{what}: {error}, {failures} times in a row: what has come is kept, run the same command again"
                ) from None
            time.sleep(max(patience.wait(failures), min(error.wait, patience.longest_wait)))


def fetch(url: str, path: Path, *, digest: str | None = None, patience: Patience = PATIENCE) -> str:
    """Bring a file by https, http or file:// to `path`, whole or not at all; its digest.

    What an earlier call has left in `<path>.part` is continued if the server still has the same file. A file of another
    digest than asked for is fetched once more. LinkRefused for 4xx, SohesError when it cannot be had or does not fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        return checked(lambda: _fetch(url, path, patience), path, digest, shown(url))


def checked(bring: Callable[[], object], path: Path, digest: str | None, what: str) -> str:
    """The digest of `path`, brought if it is not there; a wrong one is thrown away and brought once more."""
    found = ""
    for _ in range(2):
        if not path.exists():
            bring()
        found = digest_file(path)
        if digest in (None, found):
            return found
        path.unlink()
    raise SohesError(f"{what} has the digest {found} and {digest} was expected, twice: the list or the file is wrong")


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


def _attempt(pool: urllib3.PoolManager, url: str, part: Path) -> None:
    """Continue `part` to its end, or raise TransferFailed with what this attempt has added."""
    have = part.stat().st_size if part.exists() else 0
    known: dict[str, Any] = json.loads(_note(part).read_text()) if have and _note(part).exists() else {}
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
    total = json.loads(_note(part).read_text())["total"]
    if total is not None and have != total:
        raise TransferFailed(f"{have} of {total} bytes came", have - began)


def _accepted(response: urllib3.BaseHTTPResponse, url: str, have: int, known: dict[str, Any], part: Path) -> int:
    """The offset at which the response's body begins; notes what is known of the file when it begins at 0."""
    status = response.status
    if status in TEMPORARY:
        wait = response.headers.get("Retry-After", "")
        raise TransferFailed(f"the server answers {status}", wait=float(wait) if wait.isdecimal() else 0.0)
    if status == 206 and have:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.startswith(f"{have}-") and total in (str(known["total"]), "*"):
            return have
    if status in (206, 416):  # another piece than asked for, or of another file: from the beginning
        _note(part).unlink(missing_ok=True)
        raise TransferFailed("the file has changed on the server")
    if status != 200:
        refused = LinkRefused(f"{shown(url)} is refused (HTTP status {status}): mend the address or fetch a fresh link")
        refused.status = status
        raise refused
    length = response.headers.get("Content-Length", "")
    total_bytes = int(length) if length.isdecimal() else None
    # The file itself, and its photographs packed beside it before it is removed.
    check_disk(part.parent, 2 * (total_bytes or 0), part.name.removesuffix(".part"))
    etag = response.headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
    write_json(_note(part), {"total": total_bytes, "validator": validator})
    return 0


def _reason(error: BaseException) -> str:
    """Without the address, which the caller names and which may hold a signature."""
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "the server is silent"
    if isinstance(error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.ProtocolError):
        return "the connection was cut"
    if isinstance(error, urllib3.exceptions.MaxRetryError):
        return f"no connection ({type(error.reason).__name__})"
    return f"no connection ({type(error).__name__})"
