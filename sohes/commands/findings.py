"""A line of `sohes doctor`'s list, its verdict, and whether a server answers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from sohes.tracking.store import without_secrets

TIMEOUT = 3.0  # seconds for a server to answer
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class State(StrEnum):
    """optional: not here, and nothing in this profile needs it. missing: it runs without, slower, or fetches it first.
    broken: it cannot run."""

    ok = "ok"
    optional = "optional"
    missing = "missing"
    broken = "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the list: what was checked, its state, and what was found, with the remedy if it is not ok."""

    what: str
    state: State
    words: str


def verdict(findings: Sequence[Finding], params: Path) -> str:
    """Whether this machine can run the profile, in one sentence that names what is in the way."""
    named = {state: ", ".join(found.what for found in findings if found.state is state) for state in State}
    if named[State.broken]:
        return f"This machine cannot run {params}: fix {named[State.broken]}."
    if named[State.missing]:
        return f"This machine can run {params}, but see {named[State.missing]}."
    return f"This machine can run {params}."


def answers(what: str, server: str, path: str, remedy: str, *, without: State = State.broken) -> Finding:
    """Whether a server has such a page, if only for those who log in. without: the state if it does not."""
    fault = ""
    try:
        urllib.request.urlopen(f"{server.rstrip('/')}{path}", timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        with error:  # it is the answer, too, and holds the connection
            fault = f"status {error.code}" if error.code >= 500 or error.code == 404 else ""
    except (urllib.error.URLError, OSError, ValueError) as error:
        fault = str(getattr(error, "reason", error)) or type(error).__name__
    if fault:
        return Finding(what, without, f"{server} does not answer ({fault}): {remedy}")
    return Finding(what, State.ok, f"{server} answers")


def listens(what: str, server: str, remedy: str) -> Finding:
    """Whether a database takes connections; whether it lets us in, a run finds out."""
    parts, shown = urlsplit(server), without_secrets(server)
    try:
        port = parts.port or DATABASE_PORTS[parts.scheme.partition("+")[0]]
        socket.create_connection((parts.hostname or "localhost", port), TIMEOUT).close()
    except KeyError:
        return Finding(what, State.missing, f"{shown} was not looked at: no port is named")
    except (OSError, ValueError) as error:
        return Finding(what, State.broken, f"{shown} does not answer ({error}): {remedy}")
    return Finding(what, State.ok, f"{shown} takes connections")
